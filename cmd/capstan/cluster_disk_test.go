//go:build linux

package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

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

// A node whose disk is nearly full refuses eventual writes, and linearizable ones
// of the keys that it leads, and says why; everything else goes on, there and
// elsewhere. With room again it takes them again.
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
	const left = 6 << 20 // below an eighth, above a quarter of that
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
	there, elsewhere := c.ledBy(n3, n3, true), c.ledBy(n3, n3, false)
	if err := c.write(n3, "x", elsewhere); err != nil {
		t.Errorf("a linearizable write through n3, led elsewhere: %v", err)
	}
	if err := c.write(n1, "x", there); !errors.Is(err, client.ErrDiskFull) || !client.IsNotApplied(err) {
		t.Errorf("a linearizable write led by n3: %v", err)
	}
	if _, err := c.client(n1).Delete(t.Context(), []byte(there)); err != nil {
		t.Errorf("a delete led by n3: %v", err)
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

// ledBy is a key whose partition leader leads, or does not, as from sees it.
func (c *cluster) ledBy(from, leader *serving, leads bool) (key string) {
	c.t.Helper()
	c.until("a key is found", func() error {
		for _, key = range numbered("led/", 64) {
			if at, err := c.leader(from, key); err == nil && (at == leader) == leads {
				return nil
			}
		}
		return errors.New("none")
	})
	return key
}

// A test that runs again in a process whose environment has ownMountsVariable
// may mount disks there, which nobody else sees and which outlive nodes.
const ownMountsVariable = "TEST_CAPSTAN_OWN_MOUNTS"

// withOwnMounts runs the calling test again, alone, in such a process, and
// reports whether this is it.
func withOwnMounts(t *testing.T) (inside bool) {
	t.Helper()
	if os.Getenv(ownMountsVariable) != "" {
		return true
	}
	again := exec.Command(os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=8m")
	again.Env = append(os.Environ(), ownMountsVariable+"=1")
	again.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig: syscall.SIGKILL, Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}, GidMappings: []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}},
	}
	out, err := again.CombinedOutput()
	switch {
	case err != nil && again.ProcessState == nil:
		t.Skipf("no disks of its own for a test without user namespaces: %v", err)
	case err != nil:
		t.Errorf("%v\n%s", err, out)
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Skipf("%s", out)
	}
	return false
}

// smallDisk mounts one of so many bytes.
func smallDisk(t *testing.T, dir string, bytes int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprint("size=", bytes)); err != nil {
		t.Skipf("no disk: %v", err)
	}
	t.Cleanup(func() { _ = syscall.Unmount(dir, syscall.MNT_DETACH) })
}

// fill takes up what is left of a disk but for so many bytes.
func fill(t *testing.T, dir string, left int64) (filler string) {
	t.Helper()
	filler = filepath.Join(dir, "filler")
	f, err := os.OpenFile(filler, os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var disk syscall.Statfs_t
	if err := syscall.Statfs(dir, &disk); err != nil {
		t.Fatal(err)
	}
	if free := int64(disk.Bavail) * disk.Bsize; free > left {
		if err := syscall.Fallocate(int(f.Fd()), 0, 0, free-left); err != nil {
			t.Fatal(err)
		}
	}
	return filler
}

// The disks of all nodes fill up. Writes are refused before that ends a node:
// deletes, reads and elections go on, so do restarts, and room that is made is
// room for writes. A start on a full disk ends and says why.
func TestClusterDisksFull(t *testing.T) {
	t.Parallel()
	if !withOwnMounts(t) {
		return
	}
	const size = 128 << 20
	c := newCluster(t, 3)
	for _, n := range c.nodes {
		disk := filepath.Join(c.dir, "disk-"+n.name)
		smallDisk(t, disk, size)
		n.args = append(n.args, "--data-dir", filepath.Join(disk, "data"))
		n.start()
	}
	c.untilReady(c.nodes...)
	n1 := c.nodes[0]
	asked := c.client(nil)
	value := make([]byte, 128<<10)
	key := func(i int) []byte { return fmt.Append(nil, "full/", i) }
	written, refused := 0, 0
	for refused < 20 {
		for i := range value {
			value[i] = byte(rand.Int()) // nothing to compress
		}
		switch _, err := asked.Put(t.Context(), key(written), value); {
		case err == nil:
			written++
		case errors.Is(err, client.ErrDiskFull) && client.IsNotApplied(err):
			refused++
			time.Sleep(poll)
		case client.IsNotApplied(err): // an election: it is tried again
		default:
			t.Fatalf("write %d: %v", written, err)
		}
		if written*len(value) > size {
			t.Fatalf("%d bytes fit into disks of %d", written*len(value), size)
		}
	}
	t.Logf("%d MiB of values on disks of %d MiB", written*len(value)>>20, size>>20)
	if written*len(value) < size/4 {
		t.Errorf("only %d of %d MiB were for values", written*len(value)>>20, size>>20)
	}
	running := func(when string) {
		t.Helper()
		for _, n := range c.nodes {
			if !n.running() {
				t.Fatalf("%s: %s has ended with %d", when, n.name, n.cmd.ProcessState.ExitCode())
			}
		}
	}
	running("full")
	if got, err := asked.Get(t.Context(), key(0)); err != nil || !got.Found {
		t.Errorf("read: %v", err)
	}
	if _, err := asked.Delete(t.Context(), key(0)); err != nil {
		t.Errorf("delete: %v", err)
	}
	c.nodes[2].kill()
	c.nodes[2].start()
	c.untilReady(c.nodes...)
	for _, n := range c.nodes {
		n.signal(syscall.SIGTERM)
		if status := n.exit(); status != 0 {
			t.Errorf("%s stopped with %d", n.name, status)
		}
	}

	// Somebody else takes the rest of n1's disk. Either it does not start, and says so; or it
	// makes enough room by dropping old files of its own, and serves.
	disk := filepath.Dir(n1.args[len(n1.args)-1])
	filler := fill(t, disk, 0)
	began := time.Now()
	n1.start()
	c.until("n1 serves, or ends", func() error {
		if n1.running() {
			_, _, _, err := plain(http.MethodGet, n1.url()+"/livez", "")
			return err
		}
		return nil
	})
	t.Logf("the start on a full disk took %s", time.Since(began))
	if !n1.running() {
		if status := n1.exit(); status != exitFailed {
			t.Errorf("the start on a full disk ended with %d", status)
		}
		said, _ := os.ReadFile(n1.log)
		if last := lastLines(said, 2); !strings.Contains(last, "error: ") || !strings.Contains(last, "no space left on device") || !strings.Contains(last, "make room") {
			t.Errorf("it said last\n%s", last)
		}
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	for _, n := range c.nodes {
		if !n.running() {
			n.start()
		}
	}
	c.untilReady(c.nodes...)

	for i := range written {
		c.until("a delete", func() error {
			_, err := asked.Delete(t.Context(), key(i))
			return err
		})
	}
	c.until("writes are taken again", func() error {
		_, err := asked.Put(t.Context(), key(0), value)
		return err
	})
	running("deleted")
}
