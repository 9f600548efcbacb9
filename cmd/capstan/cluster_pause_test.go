//go:build linux

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/api/client"
)

// A leader that is stopped for so long that another has taken its place still
// believes that it leads when it wakes. The reads that wait for it in the
// kernel, and those that come while it wakes, began after the new value was
// acknowledged: each gets that value, or an error.
func TestClusterPausedLeaderNeverAnswersStale(t *testing.T) {
	t.Parallel()
	const (
		pauses  = 2
		waiting = 12  // connections on which reads wait in the kernel, and as many that are new
		deep    = 40  // reads on each, one behind the other: they come while it wakes
		readers = 4   // that go on asking while it wakes
		awake   = 200 // of their answers
	)
	c := startCluster(t, 3)
	var keys []string // over many partitions: each leader wakes by itself
	for i := range 24 {
		keys = append(keys, fmt.Sprint("paused/", i))
	}
	for round := range pauses {
		was, is := fmt.Sprintf("old %d", round), fmt.Sprintf("new %d", round)
		var paused *serving
		c.until("a write through the leader", func() (err error) {
			if paused, err = c.leader(c.nodes[round%3], keys[0]); err != nil {
				return err
			}
			return c.write(paused, was, keys...)
		})
		var led []string
		for _, key := range keys {
			if n, err := c.leader(paused, key); err == nil && n == paused {
				led = append(led, key)
			}
		}
		warm := c.dial(paused, waiting)
		for _, conn := range warm {
			ask(conn, led[:1], 1)
			if status, _, err := rawAnswer(conn); err != nil || status != http.StatusOK {
				t.Fatalf("%s before its pause: %d %v", paused.name, status, err)
			}
		}
		// One of these reads may be in the middle when the signal comes. It
		// began before the new value and may see either.
		half := c.client(paused)
		inFlight := make(chan struct{})
		var before sync.WaitGroup
		for range readers {
			before.Go(func() {
				for {
					select {
					case <-inFlight:
						return
					default:
					}
					began := time.Now()
					ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
					_, _ = half.Get(ctx, []byte(led[0]))
					cancel()
					if time.Since(began) > 100*time.Millisecond {
						return // it is paused
					}
				}
			})
		}
		paused.pause()
		other := c.nodes[0]
		if other == paused {
			other = c.nodes[1]
		}
		c.until("others lead and take writes", func() error {
			return c.write(other, is, led...)
		})
		close(inFlight)
		before.Wait()

		judge := func(status int, body string) {
			if status == http.StatusOK && body != is {
				t.Errorf("round %d: %s answered %q after it was paused; %q was acknowledged before the read began", round, paused.name, body, is)
			}
			if status == http.StatusNotFound {
				t.Errorf("round %d: %s found nothing", round, paused.name)
			}
		}
		asked := slices.Concat(warm, c.dial(paused, waiting))
		for _, conn := range asked {
			ask(conn, led, deep)
		}
		paused.signal(syscall.SIGCONT)
		var fresh, errs atomic.Int64
		var all []func()
		for _, conn := range asked {
			all = append(all, func() {
				for range deep {
					status, body, err := rawAnswer(conn)
					if err != nil {
						t.Errorf("round %d: %s answered with %v", round, paused.name, err)
						return
					}
					if status == http.StatusOK {
						fresh.Add(1)
					} else {
						errs.Add(1)
					}
					judge(status, body)
				}
			})
		}
		var right atomic.Int64
		for range readers {
			all = append(all, func() {
				for end := time.Now().Add(clusterPatience); right.Load() < awake; {
					status, _, body, err := plain(http.MethodGet, paused.url()+"/kv/"+led[0], "")
					if err == nil {
						judge(status, body)
					}
					if err == nil && status == http.StatusOK {
						right.Add(1)
					} else if time.Now().After(end) {
						t.Errorf("round %d: %s does not serve again: %d %s %v", round, paused.name, status, body, err)
						return
					}
				}
			})
		}
		together(all...)
		t.Logf("round %d: of %d reads that waited for %s, which led %d keys, %d were answered and %d refused", round, len(asked)*deep, paused.name, len(led), fresh.Load(), errs.Load())
		c.untilReady(c.nodes...)
	}
}

// write puts a value under each key, through one node alone.
func (c *cluster) write(through *serving, value string, keys ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
	defer cancel()
	asked, err := client.New(client.Options{Endpoints: []string{through.url()}, Via: through.url()})
	if err != nil {
		return err
	}
	defer asked.Close()
	for _, key := range keys {
		if _, err := asked.Put(ctx, []byte(key), []byte(value)); err != nil {
			return err
		}
	}
	return nil
}

// dial opens connections to a node. They come about even if it does not run:
// the kernel takes them, and what is sent.
func (c *cluster) dial(n *serving, count int) []*bufio.ReadWriter {
	c.t.Helper()
	var conns []*bufio.ReadWriter
	for range count {
		conn, err := net.DialTimeout("tcp", n.ip+":7820", 5*time.Second)
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(clusterPatience))
		conns = append(conns, bufio.NewReadWriter(bufio.NewReader(conn), bufio.NewWriter(conn)))
	}
	return conns
}

// ask sends reads; if that fails, so does rawAnswer.
func ask(conn *bufio.ReadWriter, keys []string, count int) {
	for i := range count {
		fmt.Fprintf(conn, "GET /kv/%s?timeout=300ms HTTP/1.1\r\nHost: x\r\n\r\n", keys[i%len(keys)])
	}
	conn.Flush()
}

// rawAnswer reads the next answer on a connection.
func rawAnswer(conn *bufio.ReadWriter) (status int, body string, err error) {
	r, err := http.ReadResponse(conn.Reader, nil)
	if err != nil {
		return 0, "", err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	return r.StatusCode, string(text), err
}
