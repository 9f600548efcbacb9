//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
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
		pauses  = 4
		waiting = 40  // requests that wait in the kernel, on a connection each
		readers = 4   // that go on asking while it wakes
		awake   = 200 // of their answers
	)
	c := startCluster(t, 3)
	key := "paused"
	for round := range pauses {
		was, is := fmt.Sprintf("old %d", round), fmt.Sprintf("new %d", round)
		var paused *serving
		c.until("a write through the leader", func() (err error) {
			if paused, err = c.leader(c.nodes[round%3], key); err != nil {
				return err
			}
			return c.write(paused, key, was)
		})
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
					_, _ = half.Get(ctx, []byte(key))
					cancel()
					if time.Since(began) > 100*time.Millisecond {
						return // it is paused
					}
				}
			})
		}
		paused.signal(syscall.SIGSTOP)
		other := c.nodes[0]
		if other == paused {
			other = c.nodes[1]
		}
		c.until("another leads and takes a write", func() error {
			if n, err := c.leader(other, key); err != nil || n == paused {
				return fmt.Errorf("%s still leads (%v)", paused.name, err)
			}
			return c.write(other, key, is)
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
		answers := c.queue(paused, key, waiting)
		paused.signal(syscall.SIGCONT)
		var fresh, errs atomic.Int64
		var all []func()
		for _, answer := range answers {
			all = append(all, func() {
				status, body, err := answer()
				if err != nil || status != http.StatusOK {
					errs.Add(1)
				} else {
					fresh.Add(1)
				}
				if err == nil {
					judge(status, body)
				}
			})
		}
		var right atomic.Int64
		for range readers {
			all = append(all, func() {
				for end := time.Now().Add(clusterPatience); right.Load() < awake; {
					status, _, body, err := plain(http.MethodGet, paused.url()+"/kv/"+key, "")
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
		t.Logf("round %d: of %d reads that waited for %s, %d saw the new value and %d failed", round, waiting, paused.name, fresh.Load(), errs.Load())
		c.untilReady(c.nodes...)
	}
}

// write puts through one node alone, once.
func (c *cluster) write(through *serving, key, value string) error {
	ctx, cancel := context.WithTimeout(context.Background(), client.DefaultTimeout)
	defer cancel()
	asked, err := client.New(client.Options{Endpoints: []string{through.url()}, Via: through.url()})
	if err != nil {
		return err
	}
	defer asked.Close()
	_, err = asked.Put(ctx, []byte(key), []byte(value))
	return err
}

// queue sends reads to a node that does not run: the kernel takes the
// connections and the requests. Each function waits for an answer.
func (c *cluster) queue(n *serving, key string, count int) []func() (int, string, error) {
	c.t.Helper()
	var answers []func() (int, string, error)
	for range count {
		conn, err := net.DialTimeout("tcp", n.ip+":7820", 5*time.Second)
		if err != nil {
			c.t.Fatal(err)
		}
		c.t.Cleanup(func() { conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(clusterPatience))
		if _, err := fmt.Fprintf(conn, "GET /kv/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", key); err != nil {
			c.t.Fatal(err)
		}
		answers = append(answers, func() (int, string, error) { return rawAnswer(conn) })
	}
	return answers
}

// rawAnswer reads an answer to the end of its connection.
func rawAnswer(conn net.Conn) (status int, body string, err error) {
	text, err := io.ReadAll(conn)
	if len(text) == 0 {
		return 0, "", errors.Join(errors.New("no answer"), err)
	}
	head, body, whole := strings.Cut(string(text), "\r\n\r\n")
	if !whole {
		return 0, "", fmt.Errorf("half an answer: %q", text)
	}
	if _, err := fmt.Sscanf(head, "HTTP/1.1 %d", &status); err != nil {
		return 0, "", err
	}
	return status, body, nil
}
