# /etc/profile sets PATH anew for each login shell (ssh, tmux): the programs of the chosen stack go first again.
case ":$PATH:" in
*:/opt/stoker/bin:*) ;;
*) export PATH="/opt/stoker/bin:$PATH" ;;
esac
