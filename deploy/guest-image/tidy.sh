#!/bin/sh
# The last step of the guest's root file system, run inside it: which units run, and nothing left of the build's host.
set -eu

# --- units -------------------------------------------------------------------------------------------------------------
/opt/coffer/bin/python -m coffer_guest.boot_rules >/usr/lib/coffer/boot.nft
chmod 755 /usr/lib/coffer/grow-root /usr/lib/coffer/stop-leftovers
systemctl enable -q systemd-networkd systemd-resolved systemd-timesyncd docker containerd \
    coffer-firewall coffer-machine-setup coffer-grow-root coffer-guest
systemctl disable -q ssh cloud-init-hotplugd.socket
mkdir -p /etc/systemd/system-generators
ln -s /dev/null /etc/systemd/system-generators/systemd-ssh-generator

# Nobody waits for a network: the agent tries until it gets through. Nobody logs in here: no account has a password.
# The rest looks after what a machine that is never upgraded in place does not have, and costs time at every boot.
for unit in systemd-networkd-wait-online.service getty@tty1.service serial-getty@.service \
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service \
    ldconfig.service systemd-hwdb-update.service systemd-journal-catalog-update.service systemd-update-done.service \
    systemd-binfmt.service systemd-pstore.service systemd-pcrmachine.service systemd-pcrphase.service \
    systemd-pcrphase-sysinit.service systemd-tpm2-setup.service systemd-tpm2-setup-early.service \
    sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount sys-fs-fuse-connections.mount \
    dev-hugepages.mount modprobe@configfs.service modprobe@drm.service modprobe@efi_pstore.service \
    modprobe@fuse.service; do
    ln -sf /dev/null "/etc/systemd/system/$unit"
done

# containerd loads next to nothing, as in a machine container
mv /etc/coffer-machine/containerd.toml /etc/containerd/config.toml
rmdir /etc/coffer-machine

# --- what only a build has ---------------------------------------------------------------------------------------------
rm -rf /usr/local/share/ca-certificates/* /etc/apt/apt.conf.d/99coffer /etc/dpkg/dpkg.cfg.d/coffer \
    /etc/apt/sources.list.d/* /usr/sbin/policy-rc.d
update-ca-certificates --fresh >/dev/null 2>&1
cat >/etc/apt/sources.list.d/debian.sources <<'SOURCES'
Types: deb
URIs: https://deb.debian.org/debian
Suites: trixie trixie-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg

Types: deb
URIs: https://deb.debian.org/debian-security
Suites: trixie-security
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
SOURCES

# --- what each machine makes for itself --------------------------------------------------------------------------------
rm -f /etc/ssh/ssh_host_* /var/lib/systemd/random-seed /var/lib/dbus/machine-id
: >/etc/machine-id
rm -rf /var/cache/* /var/log/* /tmp/* /var/tmp/* /root/.cache /boot/initrd.img.old
install -d -m 2755 -g systemd-journal /var/log/journal
