# Process 1 of a node, in namespaces of its own (net, mount, PID, UTS):  bash node.sh NAME FOLDER
# Gives the node folders of its own where kubelet and containerd look by default, and reaps orphans.
set -eu
name=$1 folder=$2

# The node's own folder keeps one name whatever is mounted over its path below.
mount --bind "$folder" /mnt
mount -t tmpfs tmpfs /run
mkdir -p /run/node /run/cgroup /run/over /run/netns
mount --move /mnt /run/node

# /sys shows the network namespace it was mounted in; the cgroup trees go back below it.
mount --rbind /sys/fs/cgroup /run/cgroup
mount -t sysfs sysfs /sys
mount --rbind /run/cgroup /sys/fs/cgroup
umount --recursive --lazy /run/cgroup
mount -t bpf bpf /sys/fs/bpf

# What the node writes here stays in the node.
for path in /etc /opt /var/lib; do
    over=/run/over$path
    mkdir -p "$over/upper" "$over/work"
    mount -t overlay -o "lowerdir=$path,upperdir=$over/upper,workdir=$over/work" overlay "$path"
done
while read -r own path; do
    mkdir -p "/run/node/$own" "$path"
    mount --bind "/run/node/$own" "$path"
done <<'LIST'
kubelet /var/lib/kubelet
containerd /var/lib/containerd
cni-state /var/lib/cni
skein /var/lib/skein
cni-conf /etc/cni/net.d
cni-bin /opt/cni/bin
log /var/log
LIST

# The kubelet sets these for the whole machine, and does not when they are right already.
mkdir -p /run/sysctl
while read -r path value; do
    [ -e "/proc/sys/$path" ] || continue
    file=/run/sysctl/$(basename "$path")
    echo "$value" >"$file"
    mount --bind "$file" "/proc/sys/$path"
done <<'LIST'
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
LIST

hostname "$name"
# Volumes with propagation: pods see the network namespaces of pods that come later.
mount --make-rshared /
touch /run/node/up
while :; do
    sleep 3600 &
    wait $! || true
done
