package memnet

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

func dialPair(t *testing.T, n *Network) (a, b net.Conn) {
	t.Helper()
	l, err := n.Host("b").Listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = n.Host("a").Dial(t.Context(), l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func TestConnBehavesLikeTCP(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		c1, c2 = dialPair(t, New())
		return c1, c2, func() { c1.Close(); c2.Close() }, nil
	})
}

func TestCutHoldsBytesUntilHeal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, b := dialPair(t, n)
		defer a.Close()
		defer b.Close()
		n.CutOneWay("a", "b")
		if _, err := a.Write([]byte("late")); err != nil {
			t.Fatal(err)
		}
		buf := make([]byte, 8)
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := b.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read across a cut: %v", err)
		}
		if _, err := b.Write([]byte("ok")); err != nil {
			t.Fatal(err)
		}
		if k, err := a.Read(buf); err != nil || string(buf[:k]) != "ok" {
			t.Fatalf("the other direction: %q %v", buf[:k], err)
		}
		// A full buffer stalls the writer until the heal.
		done := make(chan error, 1)
		go func() { _, err := a.Write(make([]byte, 2*streamBuffer)); done <- err }()
		synctest.Wait()
		select {
		case err := <-done:
			t.Fatalf("a write larger than the buffer went through a cut: %v", err)
		default:
		}
		n.Heal()
		_ = b.SetReadDeadline(time.Time{})
		if _, err := io.ReadFull(b, buf[:4]); err != nil || string(buf[:4]) != "late" {
			t.Fatalf("after the heal: %q %v", buf[:4], err)
		}
		if _, err := io.CopyN(io.Discard, b, 2*streamBuffer); err != nil {
			t.Fatal(err)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	})
}

func TestDialAcrossCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		l, _ := n.Host("b").Listen("b:7821")
		defer l.Close()
		n.Isolate("b")
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := n.Host("a").Dial(ctx, "b:7821"); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("dial across a cut: %v", err)
		}
		dialed := make(chan error, 1)
		go func() { _, err := n.Host("a").Dial(t.Context(), "b:7821"); dialed <- err }()
		time.Sleep(time.Minute)
		n.Heal()
		if err := <-dialed; err != nil {
			t.Fatalf("dial that hung through the cut: %v", err)
		}
		if _, err := n.Host("a").Dial(t.Context(), "b:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Fatalf("dial where nobody listens: %v", err)
		}
	})
}

func TestCrashResetsAndFreesThePort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		b := n.Host("b")
		l, _ := b.Listen(":7821")
		near, err := n.Host("a").Dial(t.Context(), "b:7821")
		if err != nil {
			t.Fatal(err)
		}
		far, err := n.Host("c").Dial(t.Context(), "b:7821")
		if err != nil {
			t.Fatal(err)
		}
		n.Cut("b", "c")
		n.Crash("b")
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("read after the peer's crash: %v", err)
		}
		_ = far.SetReadDeadline(time.Now().Add(time.Second))
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a crash was felt across a cut: %v", err)
		}
		n.Heal()
		_ = far.SetReadDeadline(time.Time{})
		if _, err := far.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Fatalf("a crash was not felt after the heal: %v", err)
		}
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Fatalf("accept after a crash: %v", err)
		}
		again, err := b.Listen(":7821")
		if err != nil {
			t.Fatalf("listen after a crash: %v", err)
		}
		again.Close()
	})
}

func TestCloseDeliversWhatWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetConditionsEverywhere(Conditions{Latency: 25 * time.Millisecond, Jitter: 5 * time.Millisecond})
		start := time.Now()
		a, b := dialPair(t, n)
		if d := time.Since(start); d < 50*time.Millisecond || d > 60*time.Millisecond {
			t.Errorf("dial took %v, want a round trip of 50 to 60 ms", d)
		}
		for range 10 {
			_, _ = a.Write([]byte("hello "))
		}
		a.Close()
		got, err := io.ReadAll(b)
		if err != nil || string(got) != strings.Repeat("hello ", 10) {
			t.Fatalf("%q %v", got, err)
		}
		b.Close()
	})
}

func TestPackets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		a, _ := n.Host("a").ListenPacket(":7822")
		b, _ := n.Host("b").ListenPacket(":7822")
		defer a.Close()
		defer b.Close()
		buf := make([]byte, 16)
		send := func() { _, _ = a.WriteTo([]byte("ping"), &net.UDPAddr{IP: n.Host("b").IP(), Port: 7822}) }
		send()
		k, from, err := b.ReadFrom(buf)
		if err != nil || string(buf[:k]) != "ping" || from.String() != "a:7822" || from.Network() != "udp" {
			t.Fatalf("%q from %v: %v", buf[:k], from, err)
		}
		n.Cut("a", "b")
		send()
		n.Heal()
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		if _, _, err := b.ReadFrom(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a packet survived a cut: %v", err)
		}
		n.SetConditions("a", "b", Conditions{Drop: 0.5})
		for range 1000 {
			send()
		}
		got := 0
		_ = b.SetReadDeadline(time.Now().Add(time.Second))
		for {
			if _, _, err := b.ReadFrom(buf); err != nil {
				break
			}
			got++
		}
		if got < 400 || got > 600 {
			t.Errorf("%d of 1000 packets arrived at a drop of one half", got)
		}
	})
}

func TestHTTPInABubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := New()
		n.SetConditionsEverywhere(Conditions{Latency: time.Millisecond})
		l, _ := n.Host("server").Listen(":80")
		server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			_, _ = w.Write(append([]byte("echo "), body...))
		})}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		transport := &http.Transport{DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
			return n.Host("client").Dial(ctx, addr)
		}}
		client := &http.Client{Transport: transport}
		for range 3 {
			response, err := client.Post("http://server:80/", "text/plain", strings.NewReader("hi"))
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(response.Body)
			response.Body.Close()
			if string(body) != "echo hi" {
				t.Errorf("got %q", body)
			}
		}
		transport.CloseIdleConnections()
		if err := server.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := <-served; !errors.Is(err, http.ErrServerClosed) {
			t.Error(err)
		}
	})
}
