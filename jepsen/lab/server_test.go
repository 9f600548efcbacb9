//go:build linux

package lab_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// port is where the test server listens, TCP and UDP.
const port = "7000"

// serve is the program that runs on the hosts of tests. Others ask it to ask
// others: links between hosts are seen from there.
func serve(ip string) {
	listener, err := net.Listen("tcp", net.JoinHostPort(ip, port))
	check(err)
	datagrams, err := net.ListenPacket("udp", net.JoinHostPort(ip, port))
	check(err)
	var mu sync.Mutex
	received := []int{}
	go func() {
		for buffer := make([]byte, 2048); ; {
			n, _, err := datagrams.ReadFrom(buffer)
			check(err)
			number, err := strconv.Atoi(string(buffer[:n]))
			check(err)
			mu.Lock()
			received = append(received, number)
			mu.Unlock()
		}
	}()
	http.HandleFunc("/hello", func(w http.ResponseWriter, r *http.Request) {
		size, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprintf(w, "%s got %d from %s", ip, size, strings.Split(r.RemoteAddr, ":")[0])
	})
	// ask: say hello to another one, with so many bytes.
	http.HandleFunc("/ask", func(w http.ResponseWriter, r *http.Request) {
		size, _ := strconv.Atoi(r.FormValue("bytes"))
		answer, err := hello(r.FormValue("ip"), size)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		fmt.Fprint(w, answer)
	})
	// send: that many numbered datagrams.
	http.HandleFunc("/send", func(w http.ResponseWriter, r *http.Request) {
		count, err := strconv.Atoi(r.FormValue("count"))
		check(err)
		to, err := net.ResolveUDPAddr("udp", net.JoinHostPort(r.FormValue("ip"), port))
		check(err)
		for i := range count {
			_, err := datagrams.WriteTo([]byte(strconv.Itoa(i)), to)
			check(err)
		}
	})
	// received: the numbers of datagrams, in their order.
	http.HandleFunc("/received", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		check(json.NewEncoder(w).Encode(received))
	})
	check(http.Serve(listener, nil))
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// web opens a connection a request.
var web = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}

func hello(ip string, size int) (string, error) {
	return read(web.Post("http://"+net.JoinHostPort(ip, port)+"/hello", "text/plain", strings.NewReader(strings.Repeat("x", size))))
}

func read(r *http.Response, err error) (string, error) {
	if err != nil {
		return "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", r.Status, text)
	}
	return string(text), err
}

// world is an open lab with a server on each host.
type world struct {
	t *testing.T
	lab.Lab
	servers map[string]*lab.Process
	ip      map[string]string
}

func newWorld(t *testing.T, open func(lab.Config) (lab.Lab, error), hosts ...string) *world {
	t.Helper()
	l, err := open(lab.Config{Hosts: hosts, Seed: 7})
	if err != nil {
		skipForbidden(t, err)
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	w := &world{t: t, Lab: l, servers: map[string]*lab.Process{}, ip: map[string]string{}}
	for _, h := range l.Hosts() {
		w.ip[h.Name] = h.Addr.String()
		w.start(h.Name)
	}
	return w
}

// start starts a server and waits until it answers.
func (w *world) start(host string) {
	w.t.Helper()
	cmd := exec.Command(os.Args[0], w.ip[host])
	cmd.Env = append(os.Environ(), roleVariable+"=server")
	cmd.Stderr = os.Stderr
	p, err := w.Start(host, cmd)
	if err != nil {
		w.t.Fatal(err)
	}
	w.servers[host] = p
	w.until("the server on "+host+" answers", func() error {
		if !p.Running() {
			w.t.Fatalf("the server on %s ended: %v", host, p.State())
		}
		_, err := hello(w.ip[host], 0)
		return err
	})
}

// until waits for a condition; its error says what is missing.
func (w *world) until(what string, missing func() error) {
	w.t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		err := missing()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: %v", what, err)
		}
	}
}

// ask has the server on one host do something.
func (w *world) ask(host, path string, values ...any) (string, error) {
	return read(web.Get("http://" + net.JoinHostPort(w.ip[host], port) + fmt.Sprintf(path, values...)))
}

func (w *world) mustAsk(host, path string, values ...any) string {
	w.t.Helper()
	answer, err := w.ask(host, path, values...)
	if err != nil {
		w.t.Fatal(err)
	}
	return answer
}

// send sends datagrams, at most 200 at once: they fit into a socket's buffer.
func (w *world) send(from, to string, count int) {
	w.t.Helper()
	w.mustAsk(from, "/send?ip=%s&count=%d", w.ip[to], count)
}

func (w *world) received(host string) (numbers []int) {
	w.t.Helper()
	if err := json.Unmarshal([]byte(w.mustAsk(host, "/received")), &numbers); err != nil {
		w.t.Fatal(err)
	}
	return numbers
}

func (w *world) shape(from, to string, rule lab.Rule) {
	w.t.Helper()
	if err := w.Shape(lab.Link{From: from, To: to}, rule); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) traffic(from, to string) lab.Traffic {
	w.t.Helper()
	traffic, err := w.Traffic(lab.Link{From: from, To: to})
	if err != nil {
		w.t.Fatal(err)
	}
	return traffic
}
