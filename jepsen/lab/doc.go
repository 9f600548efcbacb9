// Package lab makes hosts on the spot, on one Linux machine, without root,
// containers or other programs, and starts processes on them. There are two
// labs behind one interface, [Lab]:
//
//   - [OpenNamespaces]: each host has a network namespace of its own, and this
//     process is the switch between them. Every directed [Link] can be cut, made
//     slow, lossy, or narrow, frame by frame, by a [Rule]. The processes know
//     nothing of it: TCP connections stall, time out and recover as they do on
//     a real network. It needs user namespaces, so the program has to run
//     [Within] them.
//   - [OpenLoopback]: hosts are addresses in 127/8. Processes can be killed and
//     paused, but links cannot be touched: [ErrNoLinks]. For machines that
//     forbid user namespaces, see [ErrForbidden].
//
// # Nothing is left behind
//
// A process on a host is killed by the kernel when the thread that started it
// dies, hence with this process, however that ends: a panic, Ctrl-C, kill -9.
// Within, this process in turn dies with the one that started it. Namespaces,
// interfaces and addresses belong to processes and are gone with them. The lab
// writes no files.
//
// # The network
//
// Hosts are 10.77.0.1 and up, in the order of their names. This process, where
// the clients are, is one more host, [Clients], at 10.77.0.254. Nothing leads
// out of the namespaces. Each host knows the others' hardware addresses, so no
// ARP is spoken: a cut is silence, as between hosts on different networks, and a
// healed link works at once.
//
// The switch forwards Ethernet frames of IPv4 and nothing else. TCP hands it up
// to 64 KiB in one frame (segmentation is left to a card that is not there), so a
// lost frame may be many segments.
package lab
