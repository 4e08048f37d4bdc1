package bpf

//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type endpoint -type address -type flow_key -type flow -type flow_flags -type uplink -type mac -type uplink_reason -type recent -type recent_set -type hop -type path_mtu -type probe -type probe_key -type probe_format Uplink uplink.c
