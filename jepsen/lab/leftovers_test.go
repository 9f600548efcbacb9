//go:build linux

package lab_test

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen/lab"
)

// endOf is a program with a lab, whose processes would run for ever, and that ends
// in one of many ways. It says which namespaces it has.
func endOf(open func(lab.Config) (lab.Lab, error), how string) int {
	l, err := open(lab.Config{Hosts: []string{"n1", "n2"}})
	check(err)
	var spaces []string
	for _, h := range l.Hosts() {
		for _, args := range [][]string{{"cat", "/dev/zero"}, {"sh", "-c", "readlink /proc/self/ns/net; exec sleep 1000000"}} {
			cmd := exec.Command(args[0], args[1:]...)
			// It holds the test's pipe as long as it lives.
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			check(err)
			p, err := l.Start(h.Name, cmd)
			check(err)
			if args[0] == "sh" {
				space, err := bufio.NewReader(out).ReadString('\n')
				check(err)
				spaces = append(spaces, strings.TrimSpace(space))
			}
			if h.Name == "n2" {
				check(p.Pause())
			}
		}
	}
	fmt.Println(strings.Join(spaces, " "))
	switch how {
	case "close":
		check(l.Close())
		return 0
	case "exit":
		return 5
	case "panic":
		go panic("on purpose")
	}
	select {}
}

// However a program ends, no process and no namespace of its lab is left.
func TestNothingIsLeft(t *testing.T) {
	ends := []struct {
		how    string
		signal syscall.Signal // to the program, once the lab is open
		status int
	}{
		{how: "close"},
		{how: "exit", status: 5},
		{how: "panic", status: 2},
		{how: "interrupt", signal: syscall.SIGINT},
		{how: "terminate", signal: syscall.SIGTERM},
		{how: "kill", signal: syscall.SIGKILL},
	}
	both(t, func(t *testing.T, open func(lab.Config) (lab.Lab, error)) {
		l, err := open(lab.Config{Hosts: []string{"n1"}})
		if err != nil {
			skipForbidden(t, err)
			t.Fatal(err)
		}
		l.Close()
		for _, end := range ends {
			t.Run(end.how, func(t *testing.T) {
				t.Parallel()
				// Processes of the lab hold the writing end, and nobody else does in the end.
				reader, writer, err := os.Pipe()
				if err != nil {
					t.Fatal(err)
				}
				defer reader.Close()
				cmd := exec.Command(os.Args[0])
				temporary := t.TempDir()
				cmd.Env = append(os.Environ(), roleVariable+"="+string(l.Kind())+" "+end.how, "TMPDIR="+temporary)
				cmd.Stderr = writer
				out, err := cmd.StdoutPipe()
				if err != nil {
					t.Fatal(err)
				}
				if err := cmd.Start(); err != nil {
					t.Fatal(err)
				}
				writer.Close()
				line, err := bufio.NewReader(out).ReadString('\n')
				if err != nil {
					said, _ := io.ReadAll(reader)
					t.Fatalf("%v: %s", err, said)
				}
				if end.signal != 0 {
					if err := cmd.Process.Signal(end.signal); err != nil {
						t.Fatal(err)
					}
				}
				_ = cmd.Wait() // its status tells
				if got := cmd.ProcessState.ExitCode(); end.signal == 0 && got != end.status || end.signal != 0 && got == 0 {
					t.Errorf("exit status %d, want %d", got, end.status)
				}
				if err := reader.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
					t.Fatal(err)
				}
				said, err := io.ReadAll(reader)
				if err != nil {
					t.Errorf("a process lives on: %v: %s", err, said)
				}
				if files, _ := os.ReadDir(temporary); len(files) > 0 {
					t.Errorf("files are left: %v", files)
				}
				if l.Kind() == lab.Namespaces {
					noneIn(t, strings.Fields(line))
				}
			})
		}
	})
}

// noneIn waits until no process is in any of the network namespaces.
func noneIn(t *testing.T, spaces []string) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		links, err := filepath.Glob("/proc/[0-9]*/task/*/ns/net")
		if err != nil || len(links) == 0 {
			t.Fatalf("%d threads in all of /proc: %v", len(links), err)
		}
		at := slices.IndexFunc(links, func(link string) bool {
			space, _ := os.Readlink(link) // an error: gone, or not ours
			return slices.Contains(spaces, space)
		})
		if at < 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s is still in one of %v", links[at], spaces)
		}
	}
}
