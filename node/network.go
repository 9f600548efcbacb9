package node

import (
	"context"
	"net"
	"time"
)

// keepAlive probes idle connections, so that one to a host that vanished is
// found dead also where nothing is sent.
const keepAlive = 15 * time.Second

// systemNetwork is the machine's own network.
type systemNetwork struct{}

func (systemNetwork) Listen(addr string) (net.Listener, error) {
	config := net.ListenConfig{KeepAlive: keepAlive}
	return config.Listen(context.Background(), "tcp", addr)
}

func (systemNetwork) ListenPacket(addr string) (net.PacketConn, error) {
	var config net.ListenConfig
	return config.ListenPacket(context.Background(), "udp", addr)
}

func (systemNetwork) Dial(ctx context.Context, addr string) (net.Conn, error) {
	dialer := net.Dialer{KeepAlive: keepAlive}
	return dialer.DialContext(ctx, "tcp", addr)
}
