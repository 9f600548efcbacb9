package bend

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// bench is a Bend with the hand that bends it.
type bench struct {
	*Bend
	t    *testing.T
	path string
	mem  *vfs.MemFS

	mu   sync.Mutex
	told []Event
}

// open starts a Bend in the bubble of the test, with that control file if it
// is not empty.
func open(t *testing.T, control string) *bench {
	t.Helper()
	b := &bench{t: t, path: filepath.Join(t.TempDir(), "n1.fault.json"), mem: vfs.NewMem()}
	if control != "" {
		b.write(control)
	}
	made, err := Open(Config{Path: b.path, FS: b.mem, Events: func(e Event) {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.told = append(b.told, e)
	}})
	if err != nil {
		t.Fatal(err)
	}
	b.Bend = made
	t.Cleanup(func() { b.Close() })
	time.Sleep(Every / 2) // from here on tests act in the middle between two looks
	return b
}

func (b *bench) write(control string) {
	b.t.Helper()
	if err := os.WriteFile(b.path+".new", []byte(control), 0o600); err != nil {
		b.t.Fatal(err)
	}
	if err := os.Rename(b.path+".new", b.path); err != nil {
		b.t.Fatal(err)
	}
}

// set writes a control and lets it come into force.
func (b *bench) set(control string) {
	b.t.Helper()
	b.write(control)
	time.Sleep(Every)
	synctest.Wait()
}

// read is the counters' file.
func (b *bench) read() Counters {
	b.t.Helper()
	text, err := os.ReadFile(b.path + CountersSuffix)
	if err != nil {
		b.t.Fatal(err)
	}
	var c Counters
	if err := json.Unmarshal(text, &c); err != nil {
		b.t.Fatalf("%s: %v", text, err)
	}
	return c
}

func (b *bench) ignored() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var list []string
	for _, e := range b.told {
		if i, ok := e.(Ignored); ok {
			list = append(list, i.Err.Error())
		}
	}
	return list
}

func (b *bench) off() time.Duration { return b.Now().Sub(time.Now()) } //nolint:staticcheck // not since b.Now

func TestNothingIsBentWithoutAFile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, "")
		time.Sleep(time.Minute)
		if off := b.off(); off != 0 {
			t.Errorf("the clock is off by %v", off)
		}
		if got := b.read(); got != (Counters{PID: os.Getpid()}) {
			t.Errorf("%+v", got)
		}
		if len(b.told) != 0 {
			t.Errorf("told %v", b.told)
		}
	})
}

func TestClockJumpsAndDrifts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, `{"generation":1,"clock_offset_ms":-90000}`)
		if off := b.off(); off != -90*time.Second {
			t.Errorf("at the start the clock is off by %v", off)
		}
		b.set(`{"generation":2,"clock_drift_ppm":1000}`)
		time.Sleep(100 * time.Second)
		if off := b.off(); off != 100*time.Millisecond+25*time.Microsecond {
			t.Errorf("after 100 s at 1000 ppm the clock is off by %v", off)
		}
		b.set(`{"generation":3,"clock_drift_ppm":1000,"clock_offset_ms":5000,"disk_full":true}`)
		if off := b.off(); off != 5*time.Second+100*time.Millisecond+75*time.Microsecond {
			t.Errorf("an offset beside the same drift: off by %v", off)
		}
		b.set(`{"generation":4,"clock_drift_ppm":-1000000}`)
		stopped := b.Now()
		time.Sleep(time.Hour)
		if now := b.Now(); !now.Equal(stopped) {
			t.Errorf("a clock that stands still went on by %v", now.Sub(stopped))
		}
		b.set(`{"generation":5}`)
		if off := b.off(); off != 0 {
			t.Errorf("healed, the clock is off by %v", off)
		}
		time.Sleep(Every)
		synctest.Wait()
		if got := b.read(); got != (Counters{PID: os.Getpid(), Seen: 5, ClockReads: 5}) {
			t.Errorf("%+v", got)
		}
		if err := os.Remove(b.path); err != nil {
			t.Fatal(err)
		}
		time.Sleep(Every)
		synctest.Wait()
		if got := b.read(); got.Seen != 0 {
			t.Errorf("without a file, %d is said to be in force", got.Seen)
		}
	})
}

// What can not be understood changes nothing, and is told once.
func TestMistakesChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, `{"generation":1,"clock_offset_ms":1000}`)
		for _, c := range []struct{ control, want string }{
			{`{"generation":2,"clock_offset":5}`, `unknown field "clock_offset"`},
			{`{"generation":2`, "unexpected EOF"},
			{``, "not a JSON object"},
			{`{"generation":2,"sync_delay_ms":100000000}`, "sync_delay_ms"},
		} {
			before := len(b.ignored())
			b.set(c.control)
			time.Sleep(10 * Every)
			if told := b.ignored()[before:]; len(told) != 1 || !strings.Contains(told[0], c.want) {
				t.Errorf("%s: told %q", c.control, told)
			}
			if b.off() != time.Second || b.read().Seen != 1 {
				t.Errorf("%s: off by %v, %d in force", c.control, b.off(), b.read().Seen)
			}
		}
		// The disk stays what it was when the process started; the rest is obeyed.
		before := len(b.ignored())
		b.set(`{"generation":3,"volatile":true}`)
		if told := b.ignored()[before:]; len(told) != 1 || !strings.Contains(told[0], "volatile") {
			t.Errorf("told %q", told)
		}
		if got := b.read(); got.Volatile || got.Seen != 3 || b.off() != 0 {
			t.Errorf("%+v, off by %v", got, b.off())
		}
	})
}

func TestAProcessDoesNotStartOnAControlThatItCanNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c")
	if err := os.WriteFile(path, []byte(`{"volatil":true}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Path: path}); err == nil || !strings.Contains(err.Error(), `"volatil"`) {
		t.Errorf("%v", err)
	}
	if _, err := Open(Config{Path: filepath.Join(path, "beneath", "a", "file")}); err == nil {
		t.Error("a path that can not be")
	}
}

func TestFullDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, "")
		disk := b.FS()
		must(t, disk.MkdirAll("d", 0o700))
		f := made(t)(disk.Create("d/old", vfs.WriteCategoryUnspecified))
		written(t, f, "0123456789")
		must(t, f.Close())
		open := made(t)(disk.Create("d/open", vfs.WriteCategoryUnspecified))
		written(t, open, "01234")
		reused := made(t)(disk.ReuseForWrite("d/old", "d/new", vfs.WriteCategoryUnspecified))
		b.mem.TestingSetDiskUsage(vfs.DiskUsage{AvailBytes: 6, TotalBytes: 10, UsedBytes: 4})

		b.set(`{"generation":1,"disk_full":true}`)
		refused := 0
		for what, do := range map[string]func() error{
			"create":              func() error { _, err := disk.Create("d/x", vfs.WriteCategoryUnspecified); return err },
			"open a new one":      func() error { _, err := disk.OpenReadWrite("d/x", vfs.WriteCategoryUnspecified); return err },
			"write on":            func() error { _, err := open.Write([]byte("5")); return err },
			"write at the end":    func() error { _, err := open.WriteAt([]byte("45"), 4); return err },
			"preallocate":         func() error { return open.Preallocate(0, 100) },
			"link":                func() error { return disk.Link("d/new", "d/link") },
			"make a directory":    func() error { return disk.MkdirAll("d/e", 0o700) },
			"lock anew":           func() error { _, err := disk.Lock("d/LOCK"); return err },
			"write across an end": func() error { _, err := reused.WriteAt([]byte("ab"), 9); return err },
		} {
			if err := do(); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("%s: %v", what, err)
			}
			refused++
		}
		written(t, reused, "recycled!!") // as long as the file, not longer
		if _, err := reused.Write([]byte("x")); !errors.Is(err, syscall.ENOSPC) {
			t.Errorf("behind the end of a reused file: %v", err)
		}
		refused++
		must(t, reused.Sync())
		must(t, disk.MkdirAll("d", 0o700))
		must(t, disk.Rename("d/open", "d/renamed"))
		if got := content(t, disk, "d/renamed"); got != "01234" {
			t.Errorf("%q", got)
		}
		if u, err := disk.GetDiskUsage("d"); err != nil || u != (vfs.DiskUsage{TotalBytes: 10, UsedBytes: 10}) {
			t.Errorf("usage %+v, %v", u, err)
		}
		if names, err := disk.List("d"); err != nil || len(names) != 2 {
			t.Errorf("%v, %v", names, err)
		}
		time.Sleep(Every)
		synctest.Wait()
		if got := b.read(); got != (Counters{PID: os.Getpid(), Seen: 1, WriteRefused: uint64(refused)}) {
			t.Errorf("%+v after %d refusals", got, refused)
		}

		b.set(`{"generation":2}`)
		written(t, open, "567")
		if got := content(t, disk, "d/renamed"); got != "01234567" {
			t.Errorf("with room again: %q", got)
		}
		if u, err := disk.GetDiskUsage("d"); err != nil || u.AvailBytes != 6 {
			t.Errorf("usage %+v, %v", u, err)
		}
	})
}

// syncs are all the ways in which something is made durable.
func syncs(t *testing.T, disk vfs.FS) []func() error {
	f := made(t)(disk.Create("f", vfs.WriteCategoryUnspecified))
	dir := made(t)(disk.OpenDir("/"))
	return []func() error{f.Sync, f.SyncData, dir.Sync, func() error { _, err := f.SyncTo(1); return err }}
}

func TestSlowAndFailingSyncs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, "")
		all := syncs(t, b.FS())
		took := func() (times []time.Duration, errs []error) {
			for _, sync := range all {
				began := time.Now()
				errs = append(errs, sync())
				times = append(times, time.Since(began))
			}
			return times, errs
		}
		check := func(name string, delay time.Duration, want error) {
			t.Helper()
			times, errs := took()
			if slices.ContainsFunc(times, func(d time.Duration) bool { return d != delay }) {
				t.Errorf("%s: %v", name, times)
			}
			if slices.ContainsFunc(errs, func(err error) bool { return !errors.Is(err, want) }) {
				t.Errorf("%s: %v", name, errs)
			}
		}
		check("nothing bent", 0, nil)
		b.set(`{"sync_delay_ms":300}`)
		check("slow", 300*time.Millisecond, nil)
		b.set(`{"sync_error":true}`)
		check("failing", 0, syscall.EIO)
		b.set(`{"sync_error":true,"sync_delay_ms":10}`)
		check("both", 10*time.Millisecond, syscall.EIO)
		b.set(`{}`)
		check("healed", 0, nil)
		time.Sleep(Every)
		synctest.Wait()
		if got := b.read(); got != (Counters{PID: os.Getpid(), SyncDelayed: 8, SyncFailed: 8}) {
			t.Errorf("%+v", got)
		}
	})
}

// Healing a disk ends the waits that it has caused; a longer delay prolongs them.
func TestADelayEndsWithItsControl(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := open(t, `{"sync_delay_ms":60000}`)
		sync := syncs(t, b.FS())[0]
		began, took := time.Now(), make(chan time.Duration)
		go func() {
			sync()
			took <- time.Since(began)
		}()
		time.Sleep(time.Second)
		b.set(`{"sync_delay_ms":40000}`)
		time.Sleep(time.Second)
		b.set(`{"sync_delay_ms":2000}`)
		if d := <-took; d != 2*time.Second+Every+Every/2 {
			t.Errorf("took %v", d)
		}
		if got := b.counters().SyncDelayed; got != 1 {
			t.Errorf("one sync was delayed %d times", got)
		}
	})
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func made(t *testing.T) func(vfs.File, error) vfs.File {
	return func(f vfs.File, err error) vfs.File {
		t.Helper()
		must(t, err)
		return f
	}
}

func written(t *testing.T, f vfs.File, text string) {
	t.Helper()
	if n, err := f.Write([]byte(text)); err != nil || n != len(text) {
		t.Fatalf("%d of %d bytes written: %v", n, len(text), err)
	}
}

func content(t *testing.T, disk vfs.FS, name string) string {
	t.Helper()
	f := made(t)(disk.Open(name))
	defer f.Close()
	info, err := f.Stat()
	must(t, err)
	text := make([]byte, info.Size())
	if n, err := f.ReadAt(text, 0); n != len(text) {
		t.Fatalf("%d of %d bytes read: %v", n, len(text), err)
	}
	return string(text)
}
