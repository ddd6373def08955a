: <<'EXPLAINED'
# --name stoker-digits-run                     the name under which it is stopped, entered and removed
# --hostname digits-run                        the name that prompts inside show
# --pull=never                                 an image that is not here is an error, not a download
# --stop-timeout 10                            seconds between SIGTERM and SIGKILL: time to save
# --user 1000:1000                             the owner of the files that it writes, and not root
# --env NVIDIA_VISIBLE_DEVICES=void            no GPU, also where the image would get them all by itself
# --cap-drop ALL                               no privileges of root, whatever it runs as
# --security-opt no-new-privileges             nor does a program with the setuid bit give any
# --read-only                                  the image's own files cannot be changed; what is to stay belongs on a mounted folder
# --tmpfs /tmp:rw,exec,nosuid,nodev,notmpcopyup,mode=1777
#                                              temporary files, in memory; exec, since torch.compile runs what it writes there
# --tmpfs /home/stoker:rw,exec,nosuid,nodev,notmpcopyup,mode=0700,U
#                                              no home folder is kept: this one is gone with the container
# --http-proxy=false                           a proxy's address may hold a password, which `inspect` would show; `-e HTTPS_PROXY` hands it on
# --env HOME=/home/stoker                      the home inside
# --env USER=stoker                            who it is, also for programs that look in no passwd file
# --label dev.stoker.launch=1                  Stoker looks after it; the labels are all the state there is
# --label dev.stoker.launch.name=digits-run    its name in `stoker ps`
# --label dev.stoker.launch.kind=run           notebook, ssh or run
# --label dev.stoker.launch.project=           the project folder on the host
# --label dev.stoker.launch.home=              the home folder on the host
# --label dev.stoker.launch.listen=            where it answers
# --label dev.stoker.launch.grace=10           seconds that `stoker stop` waits
# --label dev.stoker.launch.gpus=none          the GPUs as asked for
# localhost/trainer:latest                     the image
# python train.py                              what runs inside
EXPLAINED
podman run \
  --name stoker-digits-run \
  --hostname digits-run \
  --pull=never \
  --stop-timeout 10 \
  --user 1000:1000 \
  --env NVIDIA_VISIBLE_DEVICES=void \
  --cap-drop ALL \
  --security-opt no-new-privileges \
  --read-only \
  --tmpfs /tmp:rw,exec,nosuid,nodev,notmpcopyup,mode=1777 \
  --tmpfs /home/stoker:rw,exec,nosuid,nodev,notmpcopyup,mode=0700,U \
  --http-proxy=false \
  --env HOME=/home/stoker \
  --env USER=stoker \
  --label dev.stoker.launch=1 \
  --label dev.stoker.launch.name=digits-run \
  --label dev.stoker.launch.kind=run \
  --label dev.stoker.launch.project= \
  --label dev.stoker.launch.home= \
  --label dev.stoker.launch.listen= \
  --label dev.stoker.launch.grace=10 \
  --label dev.stoker.launch.gpus=none \
  localhost/trainer:latest python train.py
