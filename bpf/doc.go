// Package bpf holds the kernel side of the data plane: C programs, their shared
// headers and the Go bindings generated from both.
//
// It owns the layout and byte order of every map and the programs' code. It never loads,
// attaches or pins anything: that is dataplane's. Nothing here is edited by
// hand but the C; `go generate ./bpf/...` needs clang 14 and libbpf's headers
// and writes identical bytes on every machine, so that building the Go needs
// neither.
package bpf

//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type endpoint -type address -type frontend_line -type frontend_hash -type service -type backend -type slot_line -type node -type socket_state -type datagram_key -type affinity_key -type affinity -type name_key -type name -type source_key -type config -type layout -type layout_version -type frontend_entry -type run_word -type placement -type frontend_scope -type backend_flags -type frontend_flags -type service_flags -type address_flags -type counter -type name_kind Socket socket.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type verdict -type departed -type connected_socket Sockets sockets.c
//go:generate go tool bpf2go -go-package bpf -target bpfel -cc clang -cflags "-O2 -mcpu=v3 -Wall -Wextra -Werror -I/usr/include/x86_64-linux-gnu -I/usr/include/aarch64-linux-gnu" -type endpoint -type connected_key -type connected -type flows_walk -type event -type event_kind Census census.c
