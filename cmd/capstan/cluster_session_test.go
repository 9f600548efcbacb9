//go:build linux

package main

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/api/client"
)

// A session goes from node to node and from level to level, and each answer has
// what it wrote last, whoever gives it: the Go client carries it by itself, and
// the command line in a file.
func TestClusterSessionsAcrossNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, 3)
	asked := c.client(nil)
	at := func(i int) client.CallOption { return client.Via(c.nodes[i%3].url()) }
	reads := []struct {
		name string
		opt  client.GetOption
	}{{"eventual", client.Eventual()}, {"bounded", client.Bounded(time.Hour)}, {"linearizable", client.Linearizable()}}
	key := func(i int) []byte { return []byte(fmt.Sprint("session/", i%7)) }
	values := map[string]string{}
	for i := range 60 {
		level, value := client.Eventual(), fmt.Sprint("value ", i)
		if i%5 == 4 {
			level = client.Linearizable()
		}
		if _, err := asked.Put(t.Context(), key(i), []byte(value), level, at(i)); err != nil {
			t.Fatalf("put %d: %v", i, err)
		}
		values[string(key(i))] = value
		// Each write is read at another node first, and at another level.
		for j := range reads {
			read := reads[(i+j)%3]
			got, err := asked.Get(t.Context(), key(i), read.opt, at(i+j+1))
			if err != nil || string(got.Value) != value {
				t.Errorf("%s get %d at %s: %q, %v; want %q", read.name, i, c.nodes[(i+j+1)%3].name, got.Message().GetValue(), err, value)
			}
		}
	}

	// Somebody else goes on with the session.
	token, err := asked.Session(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	next, err := client.New(client.Options{Endpoints: c.urls(), Session: token})
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	for i := range 7 {
		got, err := next.Get(t.Context(), key(i), client.Eventual(), at(i))
		if err != nil || string(got.Value) != values[string(key(i))] {
			t.Errorf("%s: %q, %v", key(i), got.Message().GetValue(), err)
		}
	}

	file := filepath.Join(t.TempDir(), "session")
	for i := range 6 {
		value, put := fmt.Sprint("printed ", i), "--ap"
		if i%3 == 2 {
			put = "--cp"
		}
		c.capstan(0, "put", put, "--session-file", file, "--via", c.nodes[i%3].name, "shell", value)
		for j, read := range [][]string{{"--ap"}, {"--consistency", "bounded", "--max-staleness", "1h"}, {"--cp"}} {
			args := append([]string{"get", "--session-file", file, "--via", c.nodes[(i+j+1)%3].name, "shell"}, read...)
			if got := c.capstan(0, args...); got != value {
				t.Errorf("%v printed %q, want %q", args, got, value)
			}
		}
	}
	c.capstan(0, "delete", "--ap", "--session-file", file, "--via", "n1", "shell")
	c.capstan(1, "get", "--ap", "--session-file", file, "--via", "n2", "shell")
}
