//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
)

// fullPipe is a pipe that takes nothing until it is read.
func fullPipe(t *testing.T) (reader, writer *os.File) {
	t.Helper()
	var fds [2]int
	if err := syscall.Pipe2(fds[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	for chunk := make([]byte, 4096); ; {
		if _, err := syscall.Write(fds[1], chunk); errors.Is(err, syscall.EAGAIN) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	for _, fd := range fds {
		if err := syscall.SetNonblock(fd, false); err != nil {
			t.Fatal(err)
		}
	}
	reader, writer = os.NewFile(uintptr(fds[0]), "reader"), os.NewFile(uintptr(fds[1]), "writer")
	t.Cleanup(func() {
		reader.Close()
		writer.Close()
	})
	return reader, writer
}

// figure is the value of a metric without labels.
func (n *serving) figure(name string) (value float64, err error) {
	_, _, text, err := plain("GET", n.url()+"/metrics", "")
	if err != nil {
		return 0, err
	}
	_, rest, found := strings.Cut(text, "\n"+name+" ")
	if !found {
		return 0, fmt.Errorf("no %s in /metrics", name)
	}
	_, err = fmt.Sscan(rest, &value)
	return value, err
}

// Nodes whose log nobody reads, or whose reader goes away, serve and stop as
// others do, and SIGHUP does nothing to them.
func TestClusterLogSink(t *testing.T) {
	t.Parallel()
	c := newCluster(t, 3)
	n1, n2, n3 := c.nodes[0], c.nodes[1], c.nodes[2]
	// n1 cannot write its first line; n2's reader goes away later; n3's reader
	// comes back at its end.
	var readers [3]*os.File
	for i, n := range c.nodes {
		readers[i], n.stderr = fullPipe(t)
	}
	gone := bufio.NewReader(readers[1])
	read := make(chan error, 1)
	go func() {
		for {
			line, err := gone.ReadString('\n')
			if err != nil || strings.Contains(line, "msg=serving") {
				read <- err
				return
			}
		}
	}()
	for _, n := range c.nodes {
		n.start()
		n.stderr.Close() // the child has the only one
	}
	if err := <-read; err != nil {
		t.Fatalf("n2's log: %v", err)
	}
	c.untilReady(c.nodes...)
	readers[1].Close()
	for _, n := range c.nodes {
		n.signal(syscall.SIGHUP)
	}
	c.until("n2 counts what it could not write", func() error {
		dropped, err := n2.figure("capstan_log_dropped_total")
		if err == nil && dropped == 0 {
			err = errors.New("none")
		}
		return err
	})
	for i, n := range c.nodes {
		if err := c.write(n, "while nobody reads", fmt.Sprintf("log/%d", i)); err != nil {
			t.Error(err)
		}
	}
	c.untilReady(c.nodes...)

	n1.signal(syscall.SIGTERM)
	n2.signal(syscall.SIGTERM)
	if a, b := n1.exit(), n2.exit(); a != 0 || b != 0 {
		t.Errorf("n1, n2 exited with %d, %d", a, b)
	}
	n3.signal(syscall.SIGTERM)
	text, err := io.ReadAll(readers[2])
	if err != nil {
		t.Fatal(err)
	}
	if status := n3.exit(); status != 0 {
		t.Errorf("n3 exited with %d", status)
	}
	for _, want := range []string{"msg=serving", "SIGHUP ignored", "msg=stopping", "msg=stopped"} {
		if !strings.Contains(string(text), want) {
			t.Errorf("n3's log lacks %q", want)
		}
	}
}
