: <<'EXPLAINED'
# sh -c 'test -d "$0" || install -d -m 700 -o 1000 -g 1000 "$0"' /home/ada/.local/share/stoker/home
#                                              makes the home folder where there is none
# --name stoker-digits-run                     the name under which it is stopped, entered and removed
# --hostname digits-run                        the name that prompts inside show
# --pull=never                                 an image that is not here is an error, not a download
# --stop-timeout 10                            seconds between SIGTERM and SIGKILL: time to save
# --user 1000:1000                             the owner of the files that it writes, and not root
# --env NVIDIA_VISIBLE_DEVICES=void            no GPU, also where the image would get them all by itself
# --memory 57g                                 above this, and as much swap again, the kernel ends the program and spares the machine
# --shm-size 1g                                /dev/shm, through which loader workers hand over their batches; 64m otherwise
# --pids-limit 4096                            processes and threads, so that a runaway loop of forks ends here
# --ulimit memlock=-1:-1                       memory that cannot be swapped out, which InfiniBand and pinned batches need
# --ulimit nofile=65536:524288                 open files: loaders pass tensors as such
# --ulimit stack=67108864:-1                   larger stacks for compilers and MPI
# --cap-drop ALL                               no privileges of root, whatever it runs as
# --security-opt no-new-privileges             nor does a program with the setuid bit give any
# --read-only                                  the image's own files cannot be changed; what is to stay belongs on a mounted folder
# --tmpfs /tmp:rw,exec,nosuid,nodev,size=14592m,notmpcopyup,mode=1777
#                                              temporary files, in memory; exec, since torch.compile runs what it writes there
# --volume /home/ada/digits:/workspace         the project; what is written there stays
# --volume /home/ada/.local/share/stoker/home:/home/stoker
#                                              your home in all containers: settings, keys, compile caches
# --mount type=bind,source=/data/run=12:30,target=/data,readonly
#                                              yours, to read
# --workdir /workspace                         where the program starts
# --http-proxy=false                           a proxy's address may hold a password, which `inspect` would show; `-e HTTPS_PROXY` hands it on
# --env HOME=/home/stoker                      the home inside
# --env USER=stoker                            who it is, also for programs that look in no passwd file
# --env TORCHINDUCTOR_CACHE_DIR=/home/stoker/.cache/torchinductor
#                                              what torch.compile compiled is kept: the second start does not compile again
# --env TRITON_CACHE_DIR=/home/stoker/.cache/triton
#                                              the same for Triton's kernels
# --label dev.stoker.launch=1                  Stoker looks after it; the labels are all the state there is
# --label dev.stoker.launch.name=digits-run    its name in `stoker ps`
# --label dev.stoker.launch.kind=run           notebook, ssh or run
# --label dev.stoker.launch.project=/home/ada/digits
#                                              the project folder on the host
# --label dev.stoker.launch.home=/home/ada/.local/share/stoker/home
#                                              the home folder on the host
# --label dev.stoker.launch.listen=            where it answers
# --label dev.stoker.launch.grace=10           seconds that `stoker stop` waits
# --label dev.stoker.launch.gpus=none          the GPUs as asked for
# localhost/trainer:latest                     the image
# python train.py                              what runs inside
EXPLAINED
sh -c 'test -d "$0" || install -d -m 700 -o 1000 -g 1000 "$0"' /home/ada/.local/share/stoker/home &&
podman run \
  --name stoker-digits-run \
  --hostname digits-run \
  --pull=never \
  --stop-timeout 10 \
  --user 1000:1000 \
  --env NVIDIA_VISIBLE_DEVICES=void \
  --memory 57g \
  --shm-size 1g \
  --pids-limit 4096 \
  --ulimit memlock=-1:-1 \
  --ulimit nofile=65536:524288 \
  --ulimit stack=67108864:-1 \
  --cap-drop ALL \
  --security-opt no-new-privileges \
  --read-only \
  --tmpfs /tmp:rw,exec,nosuid,nodev,size=14592m,notmpcopyup,mode=1777 \
  --volume /home/ada/digits:/workspace \
  --volume /home/ada/.local/share/stoker/home:/home/stoker \
  --mount type=bind,source=/data/run=12:30,target=/data,readonly \
  --workdir /workspace \
  --http-proxy=false \
  --env HOME=/home/stoker \
  --env USER=stoker \
  --env TORCHINDUCTOR_CACHE_DIR=/home/stoker/.cache/torchinductor \
  --env TRITON_CACHE_DIR=/home/stoker/.cache/triton \
  --label dev.stoker.launch=1 \
  --label dev.stoker.launch.name=digits-run \
  --label dev.stoker.launch.kind=run \
  --label dev.stoker.launch.project=/home/ada/digits \
  --label dev.stoker.launch.home=/home/ada/.local/share/stoker/home \
  --label dev.stoker.launch.listen= \
  --label dev.stoker.launch.grace=10 \
  --label dev.stoker.launch.gpus=none \
  localhost/trainer:latest python train.py
