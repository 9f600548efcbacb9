package lab

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// upTimeout bounds how long an interface takes to come up. It takes at most a
// second.
const upTimeout = 10 * time.Second

// interfaceName is that of each host's only interface.
const interfaceName = "lab0"

// namespaces is a lab whose hosts have a network each.
type namespaces struct {
	hosts     []*namespaceHost // Clients is the last
	hub       *namespaceHost   // where the switch's ends of the cables are
	fabric    *fabric
	processes processes
}

// namespaceHost is one network namespace and the thread in it.
type namespaceHost struct {
	Host
	number int
	thread *thread
	space  netns.NsHandle
}

// OpenNamespaces makes a lab of network namespaces. The program must run Within
// namespaces of its own, and has one such lab at a time: its own network
// becomes that of Clients. The error is ErrForbidden where the machine does
// not allow it.
func OpenNamespaces(c Config) (Lab, error) {
	if err := c.check(); err != nil {
		return nil, err
	}
	if !Inside() {
		return nil, fmt.Errorf("%w: the program does not run within namespaces of its own", ErrForbidden)
	}
	l := &namespaces{}
	if err := l.open(c); err != nil {
		return nil, errors.Join(forbidden(err), l.Close())
	}
	return l, nil
}

func (l *namespaces) open(c Config) (err error) {
	if l.hub, err = newNamespaceHost(Host{}, 0, true); err != nil {
		return err
	}
	for i, name := range append(slices.Clone(c.Hosts), Clients) {
		last := byte(i + 1)
		if name == Clients {
			last = 254
		}
		h, err := newNamespaceHost(Host{Name: name, Addr: netip.AddrFrom4([4]byte{10, 77, 0, last})}, i, name != Clients)
		if err != nil {
			return err
		}
		l.hosts = append(l.hosts, h)
	}
	ports := make([]*os.File, len(l.hosts))
	for i, h := range l.hosts {
		if ports[i], err = l.plug(h); err != nil {
			break
		}
		if err = h.thread.do(func() error { return h.configure(l.hosts) }); err != nil {
			break
		}
	}
	for _, h := range l.hosts {
		if err == nil {
			err = h.thread.do(func() error { return untilUp(interfaceName) })
		}
		if err == nil {
			err = l.hub.thread.do(func() error { return untilUp(portName(h)) })
		}
	}
	if err != nil {
		for _, p := range ports {
			if p != nil {
				p.Close()
			}
		}
		return err
	}
	l.fabric = newFabric(ports, c.Seed)
	return nil
}

// newNamespaceHost starts a thread, in a network of its own or in that of this
// process.
func newNamespaceHost(host Host, number int, own bool) (*namespaceHost, error) {
	h := &namespaceHost{Host: host, number: number, thread: newThread(), space: netns.None()}
	err := h.thread.do(func() (err error) {
		if own {
			h.space, err = netns.New()
		} else {
			h.space, err = netns.Get()
		}
		return err
	})
	if err != nil {
		h.thread.stop()
		return nil, fmt.Errorf("make host %s: %w", host.Name, err)
	}
	return h, nil
}

// portName is that of the switch's end of a host's cable.
func portName(h *namespaceHost) string { return fmt.Sprintf("port%d", h.number) }

// untilUp waits for an interface of the calling thread's namespace to send: the
// kernel notes on its own time that the other end of a cable came up, and drops
// what is sent before.
func untilUp(name string) error {
	for end := time.Now().Add(upTimeout); ; time.Sleep(time.Millisecond) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if link.Attrs().OperState == netlink.OperUp {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s is %s, not up, after %s", name, link.Attrs().OperState, upTimeout)
		}
	}
}

// plug lays a cable from the switch to a host and returns the switch's end. The
// ends at the switch are in a namespace without addresses, whose kernel takes
// no part in what the hosts say to each other.
func (l *namespaces) plug(h *namespaceHost) (port *os.File, err error) {
	err = l.hub.thread.do(func() error {
		cable := netlink.NewVeth(netlink.LinkAttrs{Name: portName(h)})
		cable.PeerName, cable.PeerHardwareAddr = interfaceName, hardware(h.number)
		cable.PeerNamespace = netlink.NsFd(h.space)
		if err := netlink.LinkAdd(cable); err != nil {
			return fmt.Errorf("lay a cable to %s: %w", h.Name, err)
		}
		end, err := netlink.LinkByName(cable.Name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(end); err != nil {
			return err
		}
		port, err = openPort(end.Attrs().Index, cable.Name)
		return err
	})
	return port, err
}

// configure gives the host its address, and makes the others known to it for ever.
func (h *namespaceHost) configure(all []*namespaceHost) error {
	for _, name := range []string{"lo", interfaceName} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("%s of %s: %w", name, h.Name, err)
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
		if name == "lo" {
			continue
		}
		address := &net.IPNet{IP: h.Addr.AsSlice(), Mask: net.CIDRMask(24, 32)}
		if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: address}); err != nil {
			return fmt.Errorf("address of %s: %w", h.Name, err)
		}
		for _, other := range all {
			err := netlink.NeighSet(&netlink.Neigh{
				LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT,
				IP: other.Addr.AsSlice(), HardwareAddr: hardware(other.number),
			})
			if other != h && err != nil {
				return fmt.Errorf("make %s known to %s: %w", other.Name, h.Name, err)
			}
		}
	}
	return nil
}

func (l *namespaces) Kind() Kind { return Namespaces }

func (l *namespaces) Hosts() []Host {
	var hosts []Host
	for _, h := range l.hosts[:len(l.hosts)-1] {
		hosts = append(hosts, h.Host)
	}
	return hosts
}

func (l *namespaces) find(name string) (*namespaceHost, error) {
	for _, h := range l.hosts {
		if h.Name == name {
			return h, nil
		}
	}
	return nil, fmt.Errorf("%w: %q", ErrUnknownHost, name)
}

func (l *namespaces) Start(host string, cmd *exec.Cmd) (*Process, error) {
	h, err := l.find(host)
	if err != nil {
		return nil, err
	}
	return l.processes.start(h.thread, host, cmd)
}

func (l *namespaces) link(link Link) (*link, error) {
	from, err := l.find(link.From)
	if err != nil {
		return nil, err
	}
	to, err := l.find(link.To)
	if err != nil {
		return nil, err
	}
	if from == to {
		return nil, fmt.Errorf("%s: a host has no link to itself", link)
	}
	return l.fabric.links[from.number][to.number], nil
}

func (l *namespaces) Shape(link Link, rule Rule) error {
	if err := rule.Validate(); err != nil {
		return fmt.Errorf("%s: %w", link, err)
	}
	carrier, err := l.link(link)
	if err == nil {
		carrier.shape(rule)
	}
	return err
}

func (l *namespaces) Traffic(link Link) (Traffic, error) {
	carrier, err := l.link(link)
	if err != nil {
		return Traffic{}, err
	}
	return carrier.counted(), nil
}

func (l *namespaces) Close() error {
	if !l.processes.close() {
		return nil
	}
	var failed error
	if l.fabric != nil {
		failed = l.fabric.close()
	}
	if l.hub != nil {
		// The namespaces would take the cables with them, some time later.
		failed = errors.Join(failed, l.hub.thread.do(l.unplug))
	}
	for _, h := range append(l.hosts, l.hub) {
		if h != nil {
			failed = errors.Join(failed, h.close())
		}
	}
	return failed
}

func (h *namespaceHost) close() error {
	h.thread.stop()
	return h.space.Close()
}

// unplug removes all cables, each with both its ends.
func (l *namespaces) unplug() error {
	links, err := netlink.LinkList()
	if err != nil {
		return err
	}
	for _, link := range links {
		if link.Type() == "veth" {
			err = errors.Join(err, netlink.LinkDel(link))
		}
	}
	return err
}
