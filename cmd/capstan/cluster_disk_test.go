//go:build linux

package main

import (
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"connectrpc.com/connect"

	"github.com/capstan-kv/capstan/api/client"
)

// A child whose environment has tmpfsVariable, "SIZE DIRECTORY", begins with an
// empty disk of that size there, which nobody else sees.
const tmpfsVariable = "TEST_CAPSTAN_TMPFS"

func init() {
	beforeWhole = func() {
		size, dir, ok := strings.Cut(os.Getenv(tmpfsVariable), " ")
		if !ok {
			return
		}
		if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size="+size); err != nil {
			fmt.Fprintln(os.Stderr, "mount of a tmpfs:", err)
			os.Exit(1)
		}
	}
}

// ownDisk gives a process that is not started yet a disk of its own.
func ownDisk(cmd *exec.Cmd, size, dir string) {
	cmd.Env = append(cmd.Env, tmpfsVariable+"="+size+" "+dir)
	cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS
	cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
	cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
}

// A node whose disk is nearly full refuses eventual writes, which would pile up,
// and says why; everything else goes on, there and elsewhere. With room again it
// takes them again.
func TestClusterNearlyFullDisk(t *testing.T) {
	t.Parallel()
	probe := capstan(t.Context(), "version")
	ownDisk(probe, "1m", t.TempDir())
	if out, err := probe.CombinedOutput(); err != nil {
		t.Skipf("no small disk for a test without user namespaces: %v %s", err, out)
	}
	c := newCluster(t, 3)
	n1, n3 := c.nodes[0], c.nodes[2]
	n3.disk = "96m"
	if err := os.Mkdir(n3.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		n.start()
	}
	c.untilReady(c.nodes...)
	keys := numbered("disk/", 10)
	n3.eventually(1, keys...)

	inside := fmt.Sprintf("/proc/%d/root%s", n3.cmd.Process.Pid, n3.dir)
	var disk syscall.Statfs_t
	if err := syscall.Statfs(inside, &disk); err != nil {
		t.Fatal(err)
	}
	if size := int64(disk.Blocks) * disk.Bsize; size != 96<<20 {
		t.Fatalf("n3 has a disk of %d bytes", size)
	}
	filler, err := os.Create(inside + "/filler")
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()
	const left = 3 << 20 // below a twentieth
	if err := syscall.Fallocate(int(filler.Fd()), 0, 0, int64(disk.Bavail)*disk.Bsize-left); err != nil {
		t.Fatal(err)
	}

	asked := c.client(n3)
	put := func() error {
		_, err := asked.Put(t.Context(), []byte("disk/probe"), []byte("x"), client.Eventual())
		return err
	}
	c.until("n3 refuses eventual writes", func() error {
		var e *client.Error
		switch err := put(); {
		case err == nil:
			return errors.New("it took one")
		case !errors.As(err, &e) || e.Code != connect.CodeResourceExhausted || !errors.Is(err, client.ErrDiskFull) || !client.IsNotApplied(err):
			t.Fatalf("refused: %+v", err)
		}
		return nil
	})
	said := c.capstan(3, "put", "--ap", "--via", "n3", "disk/full", "x")
	for _, want := range []string{"resource_exhausted: the disk is nearly full", "not applied: nothing was written"} {
		if !strings.Contains(said, want) {
			t.Errorf("it did not say %q:\n%s", want, said)
		}
	}
	status, header, body, err := plain(http.MethodPut, n3.url()+"/kv/disk%2Ffull?consistency=eventual", "x")
	if status != http.StatusTooManyRequests || header.Get("Capstan-Outcome") != "not-applied" || !strings.Contains(body, "REASON_DISK_FULL") {
		t.Errorf("plain HTTP: %d %s %v", status, body, err)
	}
	n1.eventually(1, numbered("elsewhere/", 10)...)
	if err := c.write(n3, "of disk/0", "disk/0"); err != nil {
		t.Errorf("a linearizable write through n3: %v", err)
	}
	n3.holds(client.Eventual(), keys...)
	n3.holds(client.Linearizable(), numbered("elsewhere/", 10)...)
	absent(t, c, "disk%2Ffull")

	if err := os.Remove(inside + "/filler"); err != nil {
		t.Fatal(err)
	}
	filler.Close()
	c.until("n3 takes eventual writes again", func() error { return put() })
}
