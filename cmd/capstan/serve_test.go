package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/node"
)

// noted is a server that does nothing until it is closed.
type noted struct {
	done   chan struct{}
	err    error
	closed bool
}

func (s *noted) Addr() (api, peer, gossip string) { return "a", "p", "g" }
func (s *noted) Done() <-chan struct{}            { return s.done }
func (s *noted) Err() error                       { return s.err }
func (s *noted) Close() error                     { s.closed = true; return nil }

// serveOnce runs serve until the node is open and returns the configuration
// that it was opened with.
func serveOnce(t *testing.T, args ...string) (got node.Config, stderr string, status int) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var log bytes.Buffer
	s := &noted{done: make(chan struct{})}
	open := func(_ context.Context, c node.Config) (server, error) {
		got = c
		cancel() // the signal
		return s, nil
	}
	status = run(ctx, open, append([]string{"serve"}, args...), nil, &log, &log)
	if status == 0 && !s.closed {
		t.Error("the node was not closed")
	}
	return got, log.String(), status
}

func TestServePrecedence(t *testing.T) {
	file := filepath.Join(t.TempDir(), "n1.yaml")
	text := "name: file\ndata-dir: file\nzone: file\njoin: [a, 'b:1']\npartitions: 32\ninsecure: true\nmax-clock-offset: 1s\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("CAPSTAN_NAME", "variable")
	t.Setenv("CAPSTAN_DATA_DIR", "variable")
	t.Setenv("CAPSTAN_NONSENSE", "is not looked up")
	c, stderr, status := serveOnce(t, "--config", file, "--name", "flag")
	if status != 0 {
		t.Fatal(stderr)
	}
	if c.Name != "flag" || c.DataDir != "variable" || c.Zone != "file" || strings.Join(c.Join, " ") != "a b:1" || c.Partitions != 32 ||
		!c.Insecure || c.MaxClockOffset != time.Second || c.ReplicationFactor != 3 || c.Cluster != "capstan" ||
		c.Listen != "127.0.0.1:7820" || c.ListenPeer != "127.0.0.1:7821" || c.ListenGossip != "127.0.0.1:7822" || c.Logger == nil {
		t.Errorf("got %+v", c)
	}
	// The file may be named by a variable, too.
	t.Setenv("CAPSTAN_CONFIG", file)
	if c, _, _ := serveOnce(t); c.Zone != "file" {
		t.Errorf("got %+v", c)
	}
}

func TestServeRefuses(t *testing.T) {
	good := []string{"--name", "n1", "--data-dir", "d"}
	tests := []struct {
		name, file, want string
		args             []string
	}{
		{name: "unknown key", file: "name: n1\ndata-dri: d\n", want: ":2: unknown key \"data-dri\"\n  try: data-dir"},
		{name: "hidden key", file: "ephemeral: true\n", want: "unknown key \"ephemeral\""},
		{name: "twice", file: "name: a\nname: b\n", want: "already defined"},
		{name: "not yaml", file: "name: [", want: "yaml"},
		{name: "a list", file: "name: [a]\n", want: "does not take a list"},
		{name: "a mapping", file: "name: {a: b}\n", want: "does not take a mapping"},
		{name: "bad number", file: "partitions: many\n", want: "partitions"},
		{name: "no file", args: []string{"--config", "/nonexistent"}, want: "no such file"},
		{name: "no name", args: []string{"--data-dir", "d"}, want: "--name is required"},
		{name: "no directory", args: []string{"--name", "n1"}, want: "--data-dir is required"},
		{name: "bad name", args: append(good, "--name", "N_1"), want: "inner dashes"},
		{name: "partitions", args: append(good, "--partitions", "17"), want: "power of two"},
		{name: "replicas", args: append(good, "--replication-factor", "8"), want: "1 to 7"},
		{name: "off loopback", args: append(good, "--listen", "0.0.0.0:7820"), want: "try: --insecure"},
		{name: "off loopback, by name", args: append(good, "--listen-peer", "example.org:7821"), want: "off loopback"},
		{name: "off loopback, all", args: append(good, "--listen-gossip", ":7822"), want: "off loopback"},
		{name: "pprof", args: append(good, "--insecure", "--pprof", "0.0.0.0:6060"), want: "loopback only"},
		{name: "bad address", args: append(good, "--listen", "7820"), want: "host:port"},
		{name: "a flag of an earlier release", args: append(good, "--raft-log", "bolt"), want: "--raft-log"},
		{name: "log level", args: append(good, "--log-level", "loud"), want: "--log-level"},
		{name: "log format", args: append(good, "--log-format", "xml"), want: "--log-format"},
		{name: "value size", args: append(good, "--max-value-size", "4194304"), want: "--max-value-size"},
		{name: "argument", args: append(good, "x"), want: "takes no arguments"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			args := test.args
			if test.file != "" {
				file := filepath.Join(t.TempDir(), "c.yaml")
				if err := os.WriteFile(file, []byte(test.file), 0o600); err != nil {
					t.Fatal(err)
				}
				args = append(append([]string{}, good[2:]...), "--config", file)
			}
			_, stderr, status := serveOnce(t, args...)
			if status != 2 || !strings.Contains(stderr, test.want) {
				t.Errorf("status %d: %s", status, stderr)
			}
		})
	}
	t.Run("bad variable", func(t *testing.T) {
		t.Setenv("CAPSTAN_PARTITIONS", "many")
		if _, stderr, status := serveOnce(t, good...); status != 2 || !strings.Contains(stderr, `CAPSTAN_PARTITIONS="many"`) {
			t.Errorf("status %d: %s", status, stderr)
		}
	})
	if _, stderr, status := serveOnce(t, append(good, "--insecure", "--listen", "0.0.0.0:7820")...); status != 0 {
		t.Error(stderr)
	}
}

func TestServeFails(t *testing.T) {
	args := []string{"serve", "--name", "n1", "--data-dir", "d", "--log-format", "json"}
	var log bytes.Buffer
	open := func(context.Context, node.Config) (server, error) {
		return nil, errors.New("listen 127.0.0.1:7820: address in use")
	}
	if status := run(t.Context(), open, args, nil, &log, &log); status != 3 || !strings.Contains(log.String(), "error: listen 127.0.0.1:7820: address in use") {
		t.Errorf("status %d: %s", status, &log)
	}
	log.Reset()
	s := &noted{done: make(chan struct{}), err: errors.New("the disk is gone")}
	close(s.done)
	open = func(context.Context, node.Config) (server, error) { return s, nil }
	if status := run(t.Context(), open, args, nil, &log, &log); status != 3 || !s.closed || !strings.Contains(log.String(), "the disk is gone") || !strings.HasPrefix(log.String(), `{"time"`) {
		t.Errorf("status %d: %s", status, &log)
	}
}

// What the node itself finds wrong with its settings is bad usage too.
func TestServeRefusedByTheNode(t *testing.T) {
	var log bytes.Buffer
	open := func(context.Context, node.Config) (server, error) {
		return nil, errors.Join(&node.ConfigError{Field: "zone", Problem: "600 bytes, at most 32 allowed"})
	}
	if status := run(t.Context(), open, []string{"serve", "--name", "n1", "--data-dir", "d"}, nil, &log, &log); status != 2 || !strings.Contains(log.String(), "error: --zone: 600 bytes") {
		t.Errorf("status %d: %s", status, &log)
	}
}

// A refused data directory has an exit status of its own, whether the node learns
// of the refusal at its start or later.
func TestServeRefusedByTheCluster(t *testing.T) {
	args := []string{"serve", "--name", "n1", "--data-dir", "d"}
	refusal := fmt.Errorf("data directory d: %w: an older copy", node.ErrRefused)
	stopped := &noted{done: make(chan struct{}), err: refusal}
	close(stopped.done)
	for name, open := range map[string]opener{
		"at its start": func(context.Context, node.Config) (server, error) { return nil, refusal },
		"later":        func(context.Context, node.Config) (server, error) { return stopped, nil },
	} {
		var log bytes.Buffer
		if status := run(t.Context(), open, args, nil, &log, &log); status != 5 || !strings.Contains(log.String(), "error: data directory d: ") {
			t.Errorf("%s: status %d: %s", name, status, &log)
		}
	}
}

// hung is a failed server whose Close does not return.
type hung struct{ noted }

func (s *hung) Close() error { select {} }

// A node whose disk has failed may not be able to close: the process ends all
// the same, or nobody would start it again.
func TestServeEndsThoughCloseHangs(t *testing.T) {
	defer func(grace time.Duration) { failedGrace = grace }(failedGrace)
	failedGrace = 10 * time.Millisecond
	var log bytes.Buffer
	s := &hung{noted{done: make(chan struct{}), err: errors.New("the disk is gone")}}
	close(s.done)
	open := func(context.Context, node.Config) (server, error) { return s, nil }
	status := run(t.Context(), open, []string{"serve", "--name", "n1", "--data-dir", "d"}, nil, &log, &log)
	if status != 3 || !strings.Contains(log.String(), "error: the disk is gone\nnot closed within 10ms") {
		t.Errorf("status %d: %s", status, &log)
	}
}

// The names that a user may misspell.
func TestClosest(t *testing.T) {
	names := []string{"listen", "listen-peer", "listen-gossip", "data-dir", "join"}
	for name, want := range map[string]string{"lisen": "listen", "listen_peer": "listen-peer", "datadir": "data-dir", "jion": "join", "frobnicate": ""} {
		if got := closest(name, names); got != want {
			t.Errorf("closest to %q is %q, want %q", name, got, want)
		}
	}
}
