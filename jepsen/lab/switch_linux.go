package lab

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

const (
	// headerBytes go before each frame: what a network card would still have to do
	// to it, checksums and segmentation (struct virtio_net_hdr).
	headerBytes = 10
	// maxFrameBytes is the header, an Ethernet header, and the largest IP packet.
	maxFrameBytes = headerBytes + 14 + 65535
	// receiveBytes is what the kernel keeps of a port until the switch has time for
	// it.
	receiveBytes = 8 << 20
)

// hardware is the address of the host with a number: the number is what the
// switch goes by.
func hardware(number int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xca, 0x05, 0, 0, byte(number)}
}

// destination is the number of the host that a frame is for; -1: none.
func destination(frame []byte) int {
	if len(frame) < headerBytes+14 {
		return -1
	}
	to := frame[headerBytes : headerBytes+6]
	if to[0] != 0x02 || to[1] != 0xca || to[2] != 0x05 || to[3] != 0 || to[4] != 0 {
		return -1
	}
	return int(to[5])
}

// fabric is the switch: a port for each host, and a link for each pair.
type fabric struct {
	ports []*os.File // by the number of the host
	links [][]*link  // from, to
	wait  sync.WaitGroup

	mu     sync.Mutex
	failed error // the first port that could not be read
}

// newFabric starts forwarding between the ports, which are its own from now on.
func newFabric(ports []*os.File, seed uint64) *fabric {
	f := &fabric{ports: ports, links: make([][]*link, len(ports))}
	for from := range ports {
		f.links[from] = make([]*link, len(ports))
		for to, port := range ports {
			random := rand.New(rand.NewPCG(seed, uint64(from*len(ports)+to)))
			f.links[from][to] = newLink(random, func(frame []byte) bool {
				_, err := port.Write(frame)
				return err == nil // else it has no room, or is going away
			})
		}
	}
	for from := range ports {
		f.wait.Go(func() { f.forward(from) })
	}
	return f
}

// forward carries what a host sends, until its port is closed.
func (f *fabric) forward(from int) {
	buffer := make([]byte, maxFrameBytes)
	for {
		n, err := f.ports[from].Read(buffer)
		if errors.Is(err, unix.ENETDOWN) {
			continue // told once, each time that the interface goes down
		}
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				f.mu.Lock()
				f.failed = errors.Join(f.failed, fmt.Errorf("the switch reads no more from a host: %w", err))
				f.mu.Unlock()
			}
			return
		}
		if to := destination(buffer[:n]); to >= 0 && to < len(f.ports) && to != from {
			f.links[from][to].carry(buffer[:n])
		}
	}
}

func (f *fabric) close() error {
	for _, p := range f.ports {
		p.Close()
	}
	f.wait.Wait()
	for _, from := range f.links {
		for _, l := range from {
			l.close()
		}
	}
	return f.failed
}

// openPort opens one interface of the calling thread's network namespace, for
// whole IPv4 frames with their headers.
func openPort(index int, name string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	file := os.NewFile(uintptr(fd), name)
	// Without the header the kernel would refuse frames larger than the MTU.
	if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_VNET_HDR, 1); err != nil {
		file.Close()
		return nil, os.NewSyscallError("setsockopt PACKET_VNET_HDR", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBytes) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBytes) // as much as the system allows
	}
	const ipv4 = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // in network order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: ipv4, Ifindex: index}); err != nil {
		file.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return file, nil
}
