//go:build linux

package main

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"syscall"
	"testing"
)

// A volume snapshot of a running node is put back after the node has acknowledged
// more. The node ends with the status and the words for that, at this start and at
// the next, and every acknowledged write is there.
func TestClusterImageOfARunningNode(t *testing.T) {
	c := startCluster(t, 3)
	first, last := c.nodes[0], c.nodes[2]
	put := func(value string) {
		t.Helper()
		for i := range 32 {
			status, _, body, err := plain(http.MethodPut, fmt.Sprintf("%s/kv/k%d", first.url(), i), value)
			if err != nil || status != http.StatusOK && status != http.StatusNoContent {
				t.Fatalf("put: %d %s %v", status, body, err)
			}
		}
	}
	put("old")
	image := last.dir + ".image"
	last.pause()
	if err := os.CopyFS(image, os.DirFS(last.dir)); err != nil {
		t.Fatal(err)
	}
	last.signal(syscall.SIGCONT)
	c.untilReady(c.nodes...)
	put("new")
	last.kill()
	if err := os.RemoveAll(last.dir); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(image, last.dir); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := os.Truncate(last.log, 0); err != nil {
			t.Fatal(err)
		}
		last.start()
		if status := last.exit(); status != exitRefused {
			t.Errorf("exit status %d", status)
		}
		if text, _ := os.ReadFile(last.log); !bytes.Contains(text, []byte("it is an older copy: what its replica of ")) {
			t.Errorf("it says:\n%s", text)
		}
	}
	for i := range 32 {
		for _, n := range c.nodes[:2] {
			status, _, body, err := plain(http.MethodGet, fmt.Sprintf("%s/kv/k%d", n.url(), i), "")
			if err != nil || status != http.StatusOK || body != "new" {
				t.Errorf("k%d at %s: %d %q %v", i, n.name, status, body, err)
			}
		}
	}
}
