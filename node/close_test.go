package node

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	capstanv1 "github.com/capstan-kv/capstan/api/capstan/v1"
	"github.com/capstan-kv/capstan/api/capstan/v1/capstanv1connect"
)

// closeBound is the longest that Close may take: a farewell to gossip,
// requests that hang, and leadership that nobody takes over.
const closeBound = leaveWait + shutdownWait + 12*time.Second

// Close leaves nothing behind, whenever it comes: synctest ends the test with
// a panic if a goroutine outlives it.
func TestCloseAtAnyTime(t *testing.T) {
	for _, test := range []struct {
		name string
		run  func(w *world)
	}{
		{"at once", func(w *world) { w.machines[0].start() }},
		{"while it waits for others", func(w *world) {
			w.machines[0].start()
			w.machines[1].start()
			time.Sleep(w.randomTime(10 * time.Second))
		}},
		{"during formation", func(w *world) {
			w.startAll()
			time.Sleep(w.randomTime(1500 * time.Millisecond))
		}},
		{"during formation, one only", func(w *world) {
			w.startAll()
			time.Sleep(w.randomTime(1500 * time.Millisecond))
			w.closeWithin(w.machines[w.random(3)])
		}},
		{"during an election", func(w *world) {
			w.formed()
			w.leaderOf(0).crash(0)
			time.Sleep(w.randomTime(4 * time.Second))
		}},
		{"while isolated", func(w *world) {
			w.formed()
			m := w.machines[w.random(3)]
			w.net.Isolate(m.host)
			time.Sleep(w.randomTime(4 * time.Second))
			w.closeWithin(m)
		}},
		{"with requests under way", func(w *world) {
			w.formed()
			var clients sync.WaitGroup
			for i := range 12 {
				m := w.machines[i%3]
				clients.Go(func() {
					for range 20 {
						if m.running() == nil {
							return
						}
						_, _ = m.put("k", "v")
						_, _, _ = m.get("k")
						_, _ = m.scan("", "", 0, nil)
						time.Sleep(w.randomTime(20 * time.Millisecond))
					}
				})
			}
			time.Sleep(w.randomTime(200 * time.Millisecond))
			for _, m := range w.machines {
				w.closeWithin(m)
			}
			clients.Wait()
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			forSeeds(t, 4, func(t *testing.T, seed uint64) {
				w := newWorld(t, 3, seed)
				defer w.close()
				test.run(w)
				var closing sync.WaitGroup
				for _, m := range w.machines {
					closing.Go(func() { w.closeWithin(m) })
				}
				closing.Wait()
			})
		})
	}
}

func (w *world) closeWithin(m *machine) {
	w.t.Helper()
	began := time.Now()
	m.stop()
	if took := time.Since(began); took > closeBound {
		w.t.Errorf("close of %s took %v", m.name, took)
	}
}

// client is an HTTP client on a machine of its own.
func (w *world) client() *http.Client {
	host := w.net.Host("10.0.1.1")
	return &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) { return host.Dial(ctx, addr) },
	}}
}

// The two public doors, over the in-memory network.
func TestClientDoors(t *testing.T) {
	inWorld(t, 3, func(t *testing.T, w *world) {
		client := w.client()
		defer client.CloseIdleConnections()
		kv := capstanv1connect.NewKVServiceClient(client, "http://10.0.0.1:7820")
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := kv.Put(ctx, &capstanv1.PutRequest{Key: []byte("k"), Value: []byte("connect")}); err != nil {
			t.Fatal(err)
		}
		for _, m := range w.machines {
			resp, err := client.Get("http://" + m.host + ":7820/kv/k")
			if err != nil {
				t.Fatal(err)
			}
			body, err := io.ReadAll(resp.Body)
			resp.Body.Close()
			if err != nil || resp.StatusCode != http.StatusOK || string(body) != "connect" || resp.Header.Get("Capstan-Served-By") == "" {
				t.Errorf("GET at %s: %s %q, %v", m.name, resp.Status, body, err)
			}
		}
		req, _ := http.NewRequestWithContext(ctx, http.MethodPut, "http://10.0.0.2:7820/kv/k", strings.NewReader("plain"))
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		got, err := kv.Get(ctx, &capstanv1.GetRequest{Key: []byte("k")})
		if err != nil || string(got.GetValue()) != "plain" {
			t.Errorf("%v, %v", got, err)
		}
		for path, want := range map[string]int{"/livez": 200, "/healthz": 200, "/readyz": 200, "/readyz?level=linearizable": 200, "/metrics": 200, "/kv/none": 404} {
			resp, err := client.Get("http://10.0.0.3:7820" + path)
			if err != nil {
				t.Fatal(err)
			}
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s: %s", path, resp.Status)
			}
		}
		// A lost quorum is an honest 503 with the reason, and no reason not to be ready.
		w.net.Isolate(w.machines[2].host)
		w.net.Heal()
		w.machines[0].crash(0)
		w.machines[1].crash(0)
		time.Sleep(5 * time.Second)
		for path, want := range map[string]int{"/kv/k": 503, "/readyz": 200, "/readyz?level=linearizable": 503} {
			resp, err := client.Get("http://10.0.0.3:7820" + path)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode != want {
				t.Errorf("%s without a quorum: %s %s", path, resp.Status, body)
			}
			if path == "/kv/k" && (resp.Header.Get("Capstan-Outcome") != "not-applied" || !strings.Contains(string(body), "REASON_NO_QUORUM")) {
				t.Errorf("without a quorum: %v %s", resp.Header, body)
			}
		}
	})
}

// A client that stops reading its scan holds up neither the node's end, nor
// that of the node whose view it reads.
func TestCloseWithStalledScan(t *testing.T) {
	withStranger(t, func(t *testing.T, w *world, fourth *machine) {
		fourth.fill("t", 60, "x")
		client := w.client()
		defer client.CloseIdleConnections()
		for _, via := range []*machine{w.machines[0], fourth} {
			kv := capstanv1connect.NewKVServiceClient(client, "http://"+via.host+":7820")
			stream, err := kv.Scan(t.Context(), &capstanv1.ScanRequest{Prefix: []byte("{t}")})
			if err != nil {
				t.Fatal(err)
			}
			if !stream.Receive() {
				t.Fatal(stream.Err())
			}
			defer stream.Close()
			time.Sleep(time.Second)
		}
		for _, m := range w.machines {
			w.closeWithin(m)
		}
	})
}
