package node

import (
	"archive/zip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// openAlone starts a cluster of one on a directory of the machine's disk.
func openAlone(t *testing.T, dir string) (*Node, error) {
	t.Helper()
	return Open(context.Background(), Config{
		Name: "n1", DataDir: dir, Listen: "127.0.0.1:0", ListenPeer: "127.0.0.1:0", ListenGossip: "127.0.0.1:0",
	})
}

// mustServe waits until the node serves, and returns the URL of its client API.
func mustServe(t *testing.T, n *Node) string {
	t.Helper()
	api, _, _ := n.Addr()
	url := "http://" + api
	for end := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		if status, _ := get(t, url+"/readyz?level=linearizable"); status == http.StatusOK {
			return url
		}
		if n.Err() != nil || time.Now().After(end) {
			t.Fatalf("it does not serve: %v", n.Err())
		}
	}
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	answer, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer.StatusCode, string(body)
}

// testdata/before-marks.zip is the directory of a node of one, killed, as the release
// before this one wrote it: without marks, with a control.bolt of raft-boltdb's format,
// four partitions, k0 to k49 put, k0 to k9 deleted, e0 to e4 put eventually.
func TestADirectoryOfTheLastReleaseIsTakenOver(t *testing.T) {
	dir := t.TempDir()
	archive, err := zip.OpenReader("testdata/before-marks.zip")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.CopyFS(dir, archive), archive.Close()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		n, err := openAlone(t, dir)
		if err != nil {
			t.Fatal(err)
		}
		url := mustServe(t, n)
		for i := range 50 {
			status, body := get(t, fmt.Sprintf("%s/kv/k%d", url, i))
			if i < 10 && status != http.StatusNotFound || i >= 10 && body != fmt.Sprint("value ", i) {
				t.Errorf("k%d: %d %q", i, status, body)
			}
		}
		for i := range 5 {
			if _, body := get(t, fmt.Sprintf("%s/kv/e%d", url, i)); body != fmt.Sprint("eventual ", i) {
				t.Errorf("e%d: %q", i, body)
			}
		}
		if err := n.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "marks")); err != nil {
		t.Error(err)
	}
}
