package bpf

//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -no-global-types -type endpoint -type address -type pod -type pod_flags -type path_config -type path_range -type path_version -type path_hook -type path_counter -type traffic -type flow -type flow_key -type flow_ports -type range_key -type range_owner -type range_flags Pod pod.c
