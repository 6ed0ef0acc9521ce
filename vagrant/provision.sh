#!/bin/sh
# Makes one machine a node. usage: provision.sh server|agent NODE_IP SERVER_IP
set -eu
role=$1 node_ip=$2 server_ip=$3

release=$(uname -r)
major=${release%%.*} minor=${release#*.} minor=${minor%%.*}
if [ "$major" -lt 6 ] || { [ "$major" -eq 6 ] && [ "$minor" -lt 6 ]; }; then
  echo "kernel $release is too old: Windlass needs 6.6 or later, choose another box" >&2
  exit 1
fi

if ! command -v containerd >/dev/null; then
  if command -v apt-get >/dev/null; then
    apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -yq containerd runc
  elif command -v dnf >/dev/null; then
    dnf install -yq containerd runc
  else
    echo "install containerd and runc: no package manager known here" >&2
    exit 1
  fi
fi
systemctl enable --now containerd

install -m 755 /tmp/windlass /usr/local/bin/windlass
install -m 644 "/tmp/systemd/windlass-$role.service" /etc/systemd/system/
mkdir -p /etc/windlass
{
  echo "WINDLASS_NODE_IP=$node_ip"
  echo "WINDLASS_SERVER=https://$server_ip:6443"
} > /etc/windlass/node.env

if [ "$role" = agent ]; then
  (umask 077; echo "WINDLASS_TOKEN=$(cat /vagrant/.cluster/join-token)" > /etc/windlass/token.env)
fi
systemctl daemon-reload
systemctl enable --now "windlass-$role"

if [ "$role" = server ]; then
  mkdir -p /vagrant/.cluster
  timeout 60 sh -c 'until [ -s /var/lib/windlass/server/join-token ]; do sleep 0.2; done'
  install -m 600 /var/lib/windlass/server/join-token /vagrant/.cluster/join-token
  timeout 60 sh -c 'until [ -s /var/lib/windlass/server/admin.kubeconfig ]; do sleep 0.2; done'
  install -m 600 /var/lib/windlass/server/admin.kubeconfig /vagrant/.cluster/kubeconfig
fi
