//go:build linux

package main

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	goversion "go/version"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	// attackMemory is what the attacked node may take up, in MiB.
	attackMemory = 512
	// attackTime is how long an attack goes on once it stands.
	attackTime = 3 * time.Second
	// answerPromise is how soon another client's small request is answered meanwhile on
	// a machine that has nothing else to do; the test itself allows attackPatience.
	answerPromise  = time.Second
	attackPatience = 20 * time.Second
)

// TestAttacks: no client, whatever it sends and whatever it does not read, makes a node
// of 512 MiB take up more, end, or leave another client's small requests unanswered.
func TestAttacks(t *testing.T) {
	if testing.Short() {
		t.Skip("real processes")
	}
	c := startCluster(t, 1, "--memory-limit", fmt.Sprintf("%dMiB", attackMemory))
	n := c.nodes[0]
	value := strings.Repeat("0123456789abcdef", 1<<16) // 1 MiB
	const keys = 40
	for i := range keys {
		if status, _, answer, err := plain(http.MethodPut, n.url()+fmt.Sprintf("/kv/big%d?timeout=30s", i), value); err != nil || status != 200 {
			t.Fatal(status, answer, err)
		}
	}
	if status, _, answer, err := plain(http.MethodPut, n.url()+"/kv/small?timeout=30s", "v"); err != nil || status != 200 {
		t.Fatal(status, answer, err)
	}
	a := &attacker{t: t, address: n.ip + ":7820"}
	scan := []byte{0, 0, 0, 0, 0}
	names := binary.BigEndian.AppendUint32([]byte{0}, 4<<20) // a message of 4 MiB, which does not come
	names = append(names, make([]byte, 200<<10)...)
	var gets []string
	for i := range 1024 {
		gets = append(gets, fmt.Sprintf(`{"get":{"key":%q}}`, base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "big%d", i%keys))))
	}
	batch := `{"ops":[` + strings.Join(gets, ",") + `]}`
	for _, attack := range []struct {
		name string
		run  func()
	}{
		{"answers that nobody reads", func() {
			for range 4 {
				a.streams(1024, "GET", "/kv/big1", "", nil, 0)
			}
		}},
		{"scans that nobody reads", func() {
			a.streams(1024, "POST", "/capstan.v1.KVService/Scan", "application/connect+proto", scan, len(scan))
			for range 50 {
				a.http1("POST /capstan.v1.KVService/Scan HTTP/1.1\r\nHost: x\r\nContent-Type: application/connect+proto\r\nContent-Length: 5\r\n\r\n" + string(scan))
			}
		}},
		{"bodies that do not end", func() {
			a.streams(1024, "PUT", "/kv/upload", "", []byte(value[:900<<10]), 0)
			for range 100 {
				a.http1("PUT /kv/upload HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n" + value[:900<<10])
			}
		}},
		{"reflection that does not end", func() {
			a.streams(1024, "POST", "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "application/grpc", names, 0)
		}},
		{"batches of large values", func() {
			for range 8 {
				a.http1("POST /capstan.v1.KVService/Batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: " + strconv.Itoa(len(batch)) + "\r\n\r\n" + batch)
			}
		}},
		{"metrics and pages that nobody reads", func() {
			for range 200 {
				a.http1(strings.Repeat("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", 20))
			}
		}},
		{"header tables that change", func() { a.hpack() }},
	} {
		t.Run(attack.name, func(t *testing.T) {
			if attack.name == "header tables that change" {
				requireToolchain(t)
			}
			a.t = t
			polite := beingPolite(n.url())
			attack.run()
			time.Sleep(attackTime)
			worst, failed := polite.end()
			a.close()
			peak := peakMemory(t, n.cmd.Process.Pid)
			t.Logf("small requests of another client within %v; %d MiB at most", worst.Round(time.Millisecond), peak)
			if failed != "" {
				t.Errorf("a small request of another client: %s", failed)
			}
			if worst > answerPromise {
				t.Logf("later than %v: the machine is busy, or the node is", answerPromise)
			}
			if peak > attackMemory && !raceDetector {
				t.Errorf("%d MiB, over %d", peak, attackMemory)
			}
			if !n.running() {
				t.Fatal("the node has ended")
			}
		})
	}
}

// requireToolchain skips where the test was built by an older Go than go.mod pins:
// its net/http does not survive this. CI does not skip.
func requireToolchain(t *testing.T) {
	t.Helper()
	text, err := os.ReadFile("../../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	pinned := regexp.MustCompile(`(?m)^toolchain (go\S+)$`).FindSubmatch(text)
	if pinned == nil {
		t.Fatal("go.mod pins no toolchain")
	}
	if want := string(pinned[1]); goversion.Compare(runtime.Version(), want) < 0 {
		message := fmt.Sprintf("built by %s, go.mod pins %s: set GOTOOLCHAIN=auto", runtime.Version(), want)
		if os.Getenv("CAPSTAN_REQUIRE_TOOLCHAIN") != "" {
			t.Fatal(message)
		}
		t.Skip(message)
	}
}

// polite is a client that asks little, again and again.
type polite struct {
	stop   chan struct{}
	done   sync.WaitGroup
	mu     sync.Mutex
	worst  time.Duration
	failed string
}

func beingPolite(url string) *polite {
	p := &polite{stop: make(chan struct{})}
	client := &http.Client{Timeout: attackPatience, Transport: &http.Transport{DisableKeepAlives: true}}
	for _, ask := range []struct{ method, path, body string }{
		{"GET", "/livez", ""}, {"GET", "/readyz", ""}, {"GET", "/metrics", ""},
		{"GET", "/kv/small?timeout=20s", ""}, {"PUT", "/kv/small?timeout=20s", "v"},
	} {
		p.done.Go(func() {
			for {
				start := time.Now()
				problem := ""
				req, _ := http.NewRequest(ask.method, url+ask.path, strings.NewReader(ask.body))
				if res, err := client.Do(req); err != nil {
					problem = err.Error()
				} else {
					answer, err := io.ReadAll(res.Body)
					_ = res.Body.Close()
					if err != nil || res.StatusCode != 200 {
						problem = fmt.Sprintf("%s %s: %s %.200s %v", ask.method, ask.path, res.Status, answer, err)
					}
				}
				p.mu.Lock()
				p.worst = max(p.worst, time.Since(start))
				if p.failed == "" {
					p.failed = problem
				}
				p.mu.Unlock()
				select {
				case <-p.stop:
					return
				case <-time.After(50 * time.Millisecond):
				}
			}
		})
	}
	return p
}

func (p *polite) end() (worst time.Duration, failed string) {
	close(p.stop)
	p.done.Wait()
	return p.worst, p.failed
}

// attacker has connections on which it does what it likes.
type attacker struct {
	t       *testing.T
	address string
	open    []net.Conn
}

func (a *attacker) dial() net.Conn {
	c, err := net.DialTimeout("tcp", a.address, attackPatience)
	if err != nil {
		a.t.Fatal(err)
	}
	_ = c.(*net.TCPConn).SetReadBuffer(4 << 10)
	_ = c.SetWriteDeadline(time.Now().Add(2 * attackTime)) // what is refused is not read
	a.open = append(a.open, c)
	return c
}

func (a *attacker) close() {
	for _, c := range a.open {
		_ = c.Close()
	}
	a.open = nil
}

// http1 sends and does not read.
func (a *attacker) http1(text string) { _, _ = io.WriteString(a.dial(), text) }

// session is a connection of HTTP/2 whose frames are written one after the other.
type h2session struct {
	mu      sync.Mutex
	conn    net.Conn
	framer  *http2.Framer
	block   bytes.Buffer
	encoder *hpack.Encoder
}

// http2 opens a session and answers what the other side's transport wants to know.
func (a *attacker) http2(window uint32) *h2session {
	c := a.dial()
	s := &h2session{conn: c, framer: http2.NewFramer(c, c)}
	s.encoder = hpack.NewEncoder(&s.block)
	_, _ = io.WriteString(c, http2.ClientPreface)
	_ = s.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: window})
	go func() { // ends when the connection is closed
		for {
			frame, err := s.framer.ReadFrame()
			if err != nil {
				return
			}
			s.mu.Lock()
			switch frame := frame.(type) {
			case *http2.SettingsFrame:
				if !frame.IsAck() {
					_ = s.framer.WriteSettingsAck()
				}
			case *http2.PingFrame:
				if !frame.IsAck() {
					_ = s.framer.WritePing(true, frame.Data)
				}
			}
			s.mu.Unlock()
		}
	}()
	return s
}

func (s *h2session) headers(stream uint32, end bool, fields ...string) error {
	s.block.Reset()
	for i := 0; i < len(fields); i += 2 {
		if err := s.encoder.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
			return err
		}
	}
	return s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: s.block.Bytes(), EndStream: end, EndHeaders: true})
}

// streams opens so many on one connection, sends a body on each, which ends after its
// byte number end (0: never), and takes no answer.
func (a *attacker) streams(count int, method, path, contentType string, body []byte, end int) {
	s := a.http2(0)
	for i := range count {
		stream := uint32(2*i + 1)
		fields := []string{":method", method, ":scheme", "http", ":authority", a.address, ":path", path}
		if contentType != "" {
			fields = append(fields, "content-type", contentType)
		}
		s.mu.Lock()
		err := s.headers(stream, len(body) == 0, fields...)
		for sent := 0; sent < len(body) && err == nil; {
			piece := body[sent:min(sent+16<<10, len(body))]
			sent += len(piece)
			err = s.framer.WriteData(stream, sent == end, piece)
		}
		s.mu.Unlock()
		if err != nil {
			return // the server has had enough
		}
	}
}

// hpack asks for something small between changes of the header table's size, for as
// long as an attack takes.
func (a *attacker) hpack() {
	for end := time.Now().Add(attackTime); time.Now().Before(end); {
		s := a.http2(65535)
		var err error
		for stream := uint32(1); err == nil && stream < 100_000 && time.Now().Before(end); {
			s.mu.Lock()
			for k := 0; k < 20 && err == nil; k++ {
				err = s.headers(stream, true, ":method", "GET", ":scheme", "http", ":authority", a.address, ":path", "/livez")
				stream += 2
				for j := 0; j < 4 && err == nil; j++ {
					err = s.framer.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: uint32(j%2) * 4096})
				}
			}
			s.mu.Unlock()
			time.Sleep(200 * time.Microsecond)
		}
	}
}

// peakMemory is the most that a process ever had in memory, in MiB.
func peakMemory(t *testing.T, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		t.Fatal("no VmHWM")
	}
	kib, _ := strconv.Atoi(string(m[1]))
	return kib >> 10
}
