#!/bin/sh
# In the container of the stage `disk`: a root file system as a tar on standard input becomes a bootable disk, a compressed
# qcow2 on standard output. Without mounts, loop devices or virtual machines.
#   make-disk VERSION
set -eu

version=$1 work=$(mktemp -d)
root=$work/root disk=$work/disk.raw
start=2048 # sectors before the partition: room for GRUB
spare=384  # MiB free on the image's own file system; a machine's grows to its flavor's disk

mkdir "$root"
tar -C "$root" --xattrs --xattrs-include='*' --numeric-owner -xf -

# Docker lays files of its own over these while it builds.
rm -f "$root/.dockerenv" "$root/etc/resolv.conf" "$root/etc/hosts"
printf '127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
echo coffer-guest >"$root/etc/hostname"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
echo 'LABEL=coffer-root / ext4 defaults,discard,errors=remount-ro 0 0' >"$root/etc/fstab"
printf '%s\n' "$version" >"$root/etc/coffer-guest-release"
# systemd looks at these times, to see whether /etc and /var are older than /usr
touch -d '+1 hour' "$root/etc/.updated" "$root/var/.updated"
mkdir -p "$root/boot/grub"
# no_timer_check: an emulated processor may be too slow for it
cat >"$root/boot/grub/grub.cfg" <<GRUB
set timeout=0
linux /vmlinuz root=LABEL=coffer-root ro console=ttyS0 net.ifnames=0 no_timer_check quiet panic=30
initrd /initrd.img
boot
GRUB

size=$(($(du -sm "$root" | cut -f 1) * 107 / 100 + spare))
truncate -s "$((size + 1))M" "$disk"
echo "start=$start, type=83, bootable" | sfdisk -q "$disk"
mke2fs -q -t ext4 -L coffer-root -m 1 -O ^metadata_csum_seed,^orphan_file -E "offset=$((start * 512)),root_owner=0:0" \
    -d "$root" "$disk" "${size}M"
grub-mkimage -O i386-pc -o "$work/core.img" -p '(hd0,msdos1)/boot/grub' biosdisk part_msdos ext2 linux normal configfile
[ "$(stat -c %s "$work/core.img")" -lt $(((start - 1) * 512)) ]
dd if=/usr/lib/grub/i386-pc/boot.img of="$disk" bs=440 count=1 conv=notrunc status=none
dd if="$work/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none
rm -rf "$root"
qemu-img convert -f raw -O qcow2 -c -o compression_type=zstd "$disk" "$work/disk.qcow2" >&2
cat "$work/disk.qcow2"
