package bend

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const unspecified = vfs.WriteCategoryUnspecified

// syncDir makes the names of a directory durable.
func syncDir(t *testing.T, disk vfs.FS, dir string) {
	t.Helper()
	d := made(t)(disk.OpenDir(dir))
	must(t, d.Sync())
	must(t, d.Close())
}

func listed(t *testing.T, disk vfs.FS, dir string) []string {
	t.Helper()
	names, err := disk.List(dir)
	must(t, err)
	slices.Sort(names)
	return names
}

// Name and content are made durable each by itself.
func TestPowerCut(t *testing.T) {
	base := vfs.NewMem()
	v := newVolatile(base, 1<<20)
	must(t, v.MkdirAll("d", 0o700))
	named := made(t)(v.Create("d/name only", unspecified))
	written(t, named, "lost")
	synced := made(t)(v.Create("d/both", unspecified))
	written(t, synced, "kept")
	must(t, synced.Sync())
	written(t, synced, " and lost")
	syncDir(t, v, "d")
	nameless := made(t)(v.Create("d/content only", unspecified))
	written(t, nameless, "lost")
	must(t, nameless.Sync())
	must(t, v.Rename("d/both", "d/renamed"))
	if got := listed(t, v, "d"); !slices.Equal(got, []string{"content only", "name only", "renamed"}) {
		t.Errorf("before the cut: %q", got)
	}
	if got := content(t, v, "d/renamed"); got != "kept and lost" {
		t.Errorf("before the cut: %q", got)
	}

	v = newVolatile(base, 1<<20)
	if got := listed(t, v, "d"); !slices.Equal(got, []string{"both", "name only"}) {
		t.Errorf("after the cut: %q", got)
	}
	for name, want := range map[string]string{"d/both": "kept", "d/name only": ""} {
		if got := content(t, v, name); got != want {
			t.Errorf("%s after the cut: %q", name, got)
		}
	}
	// What was hidden goes when something else is made there.
	if all := listed(t, base, "d"); len(all) != 3 {
		t.Errorf("%q", all)
	}
	made(t)(v.Create("d/both", unspecified)).Close()
	syncDir(t, v, "d")
	if all := listed(t, base, "d"); !slices.Equal(all, []string{"both", "name only"}) {
		t.Errorf("%q", all)
	}
}

// A name that is replaced stands for the old file or the new one at any time.
func TestReplacingANameIsOneStep(t *testing.T) {
	base := vfs.NewMem()
	v := newVolatile(base, 1<<20)
	must(t, v.MkdirAll("d", 0o700))
	for i := range 3 {
		f := made(t)(v.Create("d/node.tmp", unspecified))
		written(t, f, fmt.Sprint(i))
		must(t, f.Sync())
		must(t, f.Close())
		must(t, v.Rename("d/node.tmp", "d/node"))
		if i > 0 {
			if got := content(t, base, "d/node"); got != fmt.Sprint(i-1) {
				t.Errorf("before the directory is synced: %q", got)
			}
		}
		syncDir(t, v, "d")
		if got := content(t, base, "d/node"); got != fmt.Sprint(i) {
			t.Errorf("after: %q", got)
		}
	}
	if all := listed(t, base, "d"); !slices.Equal(all, []string{"node"}) {
		t.Errorf("%q", all)
	}
}

// A file whose name was given to another one, while its own new name is not
// durable, is lost by a power cut, but by nothing else.
func TestANameThatIsTakenOver(t *testing.T) {
	base := vfs.NewMem()
	v := newVolatile(base, 1<<20)
	must(t, v.MkdirAll("d", 0o700))
	must(t, v.MkdirAll("e", 0o700))
	f := made(t)(v.Create("d/f", unspecified))
	written(t, f, "old")
	must(t, f.Sync())
	must(t, f.Close())
	syncDir(t, v, "d")
	must(t, v.Rename("d/f", "e/f"))
	made(t)(v.Create("d/f", unspecified)).Close()
	syncDir(t, v, "d")
	if got := content(t, v, "e/f"); got != "old" {
		t.Errorf("%q", got)
	}
	if got := listed(t, newVolatile(base, 1<<20), "e"); len(got) != 0 {
		t.Errorf("after a power cut: %q", got)
	}
	syncDir(t, v, "e")
	if got := content(t, base, "e/f"); got != "old" {
		t.Errorf("%q", got)
	}
}

// An operating system renames a link of a file to another link of it by doing
// nothing.
func TestRenameToALinkFromBefore(t *testing.T) {
	v := newVolatile(vfs.Default, 1<<20)
	dir := t.TempDir()
	a, b := v.PathJoin(dir, "a"), v.PathJoin(dir, "b")
	must(t, os.WriteFile(a, []byte("x"), 0o600))
	must(t, os.Link(a, b))
	must(t, v.Rename(a, b))
	syncDir(t, v, dir)
	if got := listed(t, vfs.Default, dir); !slices.Equal(got, []string{"b"}) {
		t.Errorf("%q", got)
	}
}

func TestDirectoriesOfAVolatileDisk(t *testing.T) {
	base := vfs.NewMem()
	v := newVolatile(base, 1<<20)
	must(t, v.MkdirAll("d/e", 0o700))
	made(t)(v.Create("d/e/f", unspecified)).Close()
	written(t, made(t)(v.Create("d/kept", unspecified)), "x")
	must(t, v.Link("d/kept", "d/e/link"))
	if err := v.Remove("d/e"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Errorf("a directory that is not empty: %v", err)
	}
	if err := v.Rename("d/e", "d/g"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("rename of a directory: %v", err)
	}
	if _, err := v.Create("d/e", unspecified); err == nil {
		t.Error("a file in place of a directory")
	}
	if _, err := v.Create("no/such", unspecified); err == nil {
		t.Error("a file without a directory")
	}
	if f := made(t)(v.Open("d")); f.Close() != nil {
		t.Error("a directory that was opened is not closed")
	}
	if info, err := v.Stat("d/e"); err != nil || !info.IsDir() {
		t.Errorf("%v, %v", info, err)
	}
	must(t, v.Remove("d/e/f"))
	must(t, v.Remove("d/e/link"))
	must(t, v.Remove("d/e"))
	must(t, v.MkdirAll("d/e", 0o700))
	must(t, v.Link("d/kept", "d/e/link"))
	must(t, v.Rename("d/e/link", "d/moved"))
	must(t, v.Link("d/moved", "d/e/again"))
	syncDir(t, v, "d/e")
	must(t, v.Remove("d/kept"))
	must(t, v.RemoveAll("d/e"))
	syncDir(t, v, "d")
	f := made(t)(v.Open("d/moved"))
	must(t, f.Sync())
	if got := content(t, newVolatile(base, 1<<20), "d/moved"); got != "x" {
		t.Errorf("%q", got)
	}
	if all := listed(t, base, "d"); !slices.Equal(all, []string{"moved"}) {
		t.Errorf("%q", all)
	}
	must(t, v.RemoveAll("d"))
	if _, err := base.Stat("d"); err == nil {
		t.Error("it is still there")
	}
}

// Beyond its memory a volatile disk writes on its own, and promises nothing.
func TestVolatileMemoryIsBounded(t *testing.T) {
	base := vfs.NewMem()
	v := newVolatile(base, 1000)
	must(t, v.MkdirAll("d", 0o700))
	f := made(t)(v.Create("d/f", unspecified))
	syncDir(t, v, "d")
	for i := range 100 {
		written(t, f, strings.Repeat("x", 99))
		if held := v.held.Load(); held > 1000+99 {
			t.Fatalf("%d bytes are held after %d writes", held, i+1)
		}
	}
	if got := content(t, v, "d/f"); len(got) != 9900 {
		t.Errorf("%d bytes are seen", len(got))
	}
	if got := content(t, base, "d/f"); len(got) < 8900 || len(got) == 9900 {
		t.Errorf("%d bytes were written through", len(got))
	}
}

// What a failed sync has not written is seen until the power goes, and no later
// sync brings it back: the operating system has forgotten that it was to be
// written.
func TestAFailedSyncForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, `{"volatile":true}`)
		disk := b.FS()
		must(t, disk.MkdirAll("d", 0o700))
		f := made(t)(disk.Create("d/f", unspecified))
		syncDir(t, disk, "d")
		written(t, f, "one ")
		must(t, f.Sync())
		written(t, f, "two ")
		b.set(`{"volatile":true,"sync_error":true}`)
		if err := f.SyncData(); !errors.Is(err, syscall.EIO) {
			t.Fatal(err)
		}
		b.set(`{"volatile":true}`)
		written(t, f, "three")
		must(t, f.Sync())
		if got := content(t, disk, "d/f"); got != "one two three" {
			t.Errorf("seen: %q", got)
		}
		if got := content(t, b.mem, "d/f"); got != "one \x00\x00\x00\x00three" {
			t.Errorf("durable: %q", got)
		}
		if _, err := f.WriteAt([]byte("TWO "), 4); err != nil {
			t.Fatal(err)
		}
		must(t, f.Sync())
		for _, disk := range []vfs.FS{disk, b.mem} {
			if got := content(t, disk, "d/f"); got != "one TWO three" {
				t.Errorf("written again: %q", got)
			}
		}
		if got := b.read(); !got.Volatile {
			t.Errorf("%+v", got)
		}
	})
}
