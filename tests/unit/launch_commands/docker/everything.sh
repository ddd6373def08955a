: <<'EXPLAINED'
# sh -c 'test -d "$0" || install -d -m 700 -o 12345 -g 100 "$0"' /home/ada/.local/share/stoker/home
#                                              makes the home folder where there is none
# sh -c 'test -s "$0" || { umask 022 && mkdir -p "${0%/*}" && printf "%s\n" "$@" > "$0.$$" && mv "$0.$$" "$0"...
#                                              writes an /etc/passwd with your number where there is none
# sh -c 'test -s "$0" || { umask 022 && mkdir -p "${0%/*}" && printf "%s\n" "$@" > "$0.$$" && mv "$0.$$" "$0"...
#                                              writes an /etc/group with your number where there is none
# --detach                                     in the background
# --name stoker-digits-run                     the name under which it is stopped, entered and removed
# --hostname digits-run                        the name that prompts inside show
# --pull=never                                 an image that is not here is an error, not a download
# --restart unless-stopped                     comes back after a reboot, unless it was stopped
# --init                                       the image has no process that passes SIGTERM on to the program and buries its children
# --stop-timeout 60                            seconds between SIGTERM and SIGKILL: time to save
# --user 12345:100                             the owner of the files that it writes, and not root
# --gpus '"device=0,1"'                        these GPUs; the inner quotes belong to it, docker would split the list without them
# --memory 57g                                 above this, and as much swap again, the kernel ends the program and spares the machine
# --cpus 12                                    cores' worth of time
# --shm-size 1g                                /dev/shm, through which loader workers hand over their batches; 64m otherwise
# --pids-limit 4096                            processes and threads, so that a runaway loop of forks ends here
# --ulimit memlock=-1:-1                       memory that cannot be swapped out, which InfiniBand and pinned batches need
# --ulimit nofile=65536:524288                 open files: loaders pass tensors as such
# --ulimit stack=67108864:-1                   larger stacks for compilers and MPI
# --cap-drop ALL                               no privileges of root, whatever it runs as
# --security-opt no-new-privileges             nor does a program with the setuid bit give any
# --read-only                                  the image's own files cannot be changed; what is to stay belongs on a mounted folder
# --tmpfs /tmp:rw,exec,nosuid,nodev,size=14592m,mode=1777
#                                              temporary files, in memory; exec, since torch.compile runs what it writes there
# --tmpfs /run:rw,noexec,nosuid,nodev,mode=1777,size=64m
#                                              the rest that programs write to
# --tmpfs /var/tmp:rw,noexec,nosuid,nodev,mode=1777,size=64m
#                                              the rest that programs write to
# --mount type=bind,source=/home/ada/.local/share/stoker/accounts/passwd-ada-12345-100,target=/etc/passwd,rea...
#                                              the image has no account with your number; shells and sshd need one
# --mount type=bind,source=/home/ada/.local/share/stoker/accounts/group-ada-12345-100,target=/etc/group,readonly
#                                              the image has no account with your number; shells and sshd need one
# --mount type=bind,source=/home/ada/digits,target=/workspace
#                                              the project; what is written there stays
# --mount type=bind,source=/home/ada/.local/share/stoker/home,target=/home/stoker
#                                              your home in all containers: settings, keys, compile caches
# --mount type=bind,source=/data/cifar,target=/data,readonly
#                                              yours, to read
# --mount type=bind,source=/scratch,target=/scratch
#                                              yours, to read and write
# --workdir /workspace                         where the program starts
# --publish 192.0.2.7:6006:6006                reached from other machines
# --env HOME=/home/stoker                      the home inside
# --env USER=ada                               who it is, also for programs that look in no passwd file
# --env TORCHINDUCTOR_CACHE_DIR=/home/stoker/.cache/torchinductor
#                                              what torch.compile compiled is kept: the second start does not compile again
# --env TRITON_CACHE_DIR=/home/stoker/.cache/triton
#                                              the same for Triton's kernels
# --env-file /home/ada/.env                    variables from a file, so that no value is on a command line
# --env HF_TOKEN                               your variable, with the value that it has here
# --label dev.stoker.launch=1                  Stoker looks after it; the labels are all the state there is
# --label dev.stoker.launch.name=digits-run    its name in `stoker ps`
# --label dev.stoker.launch.kind=run           notebook, ssh or run
# --label dev.stoker.launch.project=/home/ada/digits
#                                              the project folder on the host
# --label dev.stoker.launch.home=/home/ada/.local/share/stoker/home
#                                              the home folder on the host
# --label dev.stoker.launch.listen=192.0.2.7:6006
#                                              where it answers
# --label dev.stoker.launch.grace=60           seconds that `stoker stop` waits
# --label dev.stoker.launch.gpus=0,1           the GPUs as asked for
# trainer:latest                               the image
# python train.py                              what runs inside
EXPLAINED
sh -c 'test -d "$0" || install -d -m 700 -o 12345 -g 100 "$0"' /home/ada/.local/share/stoker/home &&
sh -c 'test -s "$0" || { umask 022 && mkdir -p "${0%/*}" && printf "%s\n" "$@" > "$0.$$" && mv "$0.$$" "$0"; }' /home/ada/.local/share/stoker/accounts/passwd-ada-12345-100 'root:*:0:0:root:/root:/bin/bash' 'sshd:*:100:65534::/run/sshd:/usr/sbin/nologin' 'stoker:*:1000:1000:Stoker:/home/stoker:/bin/bash' 'nobody:*:65534:65534:nobody:/nonexistent:/usr/sbin/nologin' 'ada:*:12345:100:ada:/home/stoker:/bin/bash' &&
sh -c 'test -s "$0" || { umask 022 && mkdir -p "${0%/*}" && printf "%s\n" "$@" > "$0.$$" && mv "$0.$$" "$0"; }' /home/ada/.local/share/stoker/accounts/group-ada-12345-100 root:x:0: stoker:x:1000: nogroup:x:65534: ada:x:100: &&
docker run \
  --detach \
  --name stoker-digits-run \
  --hostname digits-run \
  --pull=never \
  --restart unless-stopped \
  --init \
  --stop-timeout 60 \
  --user 12345:100 \
  --gpus '"device=0,1"' \
  --memory 57g \
  --cpus 12 \
  --shm-size 1g \
  --pids-limit 4096 \
  --ulimit memlock=-1:-1 \
  --ulimit nofile=65536:524288 \
  --ulimit stack=67108864:-1 \
  --cap-drop ALL \
  --security-opt no-new-privileges \
  --read-only \
  --tmpfs /tmp:rw,exec,nosuid,nodev,size=14592m,mode=1777 \
  --tmpfs /run:rw,noexec,nosuid,nodev,mode=1777,size=64m \
  --tmpfs /var/tmp:rw,noexec,nosuid,nodev,mode=1777,size=64m \
  --mount type=bind,source=/home/ada/.local/share/stoker/accounts/passwd-ada-12345-100,target=/etc/passwd,readonly \
  --mount type=bind,source=/home/ada/.local/share/stoker/accounts/group-ada-12345-100,target=/etc/group,readonly \
  --mount type=bind,source=/home/ada/digits,target=/workspace \
  --mount type=bind,source=/home/ada/.local/share/stoker/home,target=/home/stoker \
  --mount type=bind,source=/data/cifar,target=/data,readonly \
  --mount type=bind,source=/scratch,target=/scratch \
  --workdir /workspace \
  --publish 192.0.2.7:6006:6006 \
  --env HOME=/home/stoker \
  --env USER=ada \
  --env TORCHINDUCTOR_CACHE_DIR=/home/stoker/.cache/torchinductor \
  --env TRITON_CACHE_DIR=/home/stoker/.cache/triton \
  --env-file /home/ada/.env \
  --env HF_TOKEN \
  --label dev.stoker.launch=1 \
  --label dev.stoker.launch.name=digits-run \
  --label dev.stoker.launch.kind=run \
  --label dev.stoker.launch.project=/home/ada/digits \
  --label dev.stoker.launch.home=/home/ada/.local/share/stoker/home \
  --label dev.stoker.launch.listen=192.0.2.7:6006 \
  --label dev.stoker.launch.grace=60 \
  --label dev.stoker.launch.gpus=0,1 \
  trainer:latest python train.py
