package bend

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	"pgregory.net/rapid"
)

// twins are a file system under test and Pebble's own in-memory one, to which
// the same is done: what one answers, the other has to.
type twins struct {
	t       *rapid.T
	root    string // of the tested one
	tested  vfs.FS
	model   *vfs.MemFS
	handles []*pair
}

// pair is one open file.
type pair struct {
	name          string
	tested, model vfs.File
	write, read   bool
}

var twinDirs = []string{"a", "b"}

// newTwins makes directories on both.
func newTwins(t *rapid.T, tested vfs.FS, root string) *twins {
	w := &twins{t: t, root: root, tested: tested, model: vfs.NewCrashableMem()}
	for _, dir := range twinDirs {
		w.both("mkdir", w.tested.MkdirAll(w.at(dir), 0o755), w.model.MkdirAll(dir, 0o755))
	}
	w.syncDir(".")
	return w
}

func (w *twins) at(name string) string {
	if name == "." {
		return w.root
	}
	return w.tested.PathJoin(w.root, name)
}

// both compares errors by what callers ask of them.
func (w *twins) both(what string, tested, model error) bool {
	kind := func(err error) string {
		switch {
		case err == nil:
			return "done"
		case errors.Is(err, fs.ErrNotExist):
			return "not there"
		case errors.Is(err, fs.ErrExist):
			return "there"
		default:
			return "failed"
		}
	}
	if kind(tested) != kind(model) {
		w.t.Fatalf("%s: %v, and the model: %v", what, tested, model)
	}
	return tested == nil
}

func (w *twins) open(what, name string, write, read bool, tested vfs.File, err error, model vfs.File, modelErr error) {
	if w.both(what+" "+name, err, modelErr) {
		w.handles = append(w.handles, &pair{name, tested, model, write, read})
	}
}

func (w *twins) name(label string) string {
	return rapid.SampledFrom(twinDirs).Draw(w.t, label+" dir") + "/" + rapid.SampledFrom([]string{"x", "y", "z"}).Draw(w.t, label)
}

func (w *twins) handle(write bool) *pair {
	fit := slices.DeleteFunc(slices.Clone(w.handles), func(p *pair) bool { return write && !p.write })
	if len(fit) == 0 {
		w.t.Skip("nothing is open")
	}
	return rapid.SampledFrom(fit).Draw(w.t, "handle")
}

func (w *twins) text() []byte {
	return []byte(rapid.StringMatching("[a-z]{1,12}").Draw(w.t, "text"))
}

func (w *twins) content(f vfs.FS, path string) (string, error) {
	file, err := f.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	text, err := io.ReadAll(file)
	if err != nil {
		return "", err
	}
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	byName, err := f.Stat(path)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%q of %d, %d bytes", text, info.Size(), byName.Size()), nil
}

// look compares all that can be seen by name.
func (w *twins) look(what string, tested, model vfs.FS) {
	for _, dir := range twinDirs {
		names, err := tested.List(w.at(dir))
		want, modelErr := model.List(dir)
		if !w.both("list", err, modelErr) {
			continue
		}
		slices.Sort(names)
		slices.Sort(want)
		if !slices.Equal(names, want) {
			w.t.Fatalf("%s: %s has %q, in the model %q", what, dir, names, want)
		}
		for _, name := range names {
			path := dir + "/" + name
			got, err := w.content(tested, w.at(path))
			want, modelErr := w.content(model, path)
			if w.both("read", err, modelErr) && got != want {
				w.t.Fatalf("%s: %s is %s, in the model %s", what, path, got, want)
			}
		}
	}
}

func (w *twins) syncDir(dir string) {
	tested, err := w.tested.OpenDir(w.at(dir))
	if err != nil {
		w.t.Fatal(err)
	}
	if dir == "." {
		dir = "/"
	}
	model, err := w.model.OpenDir(dir)
	if err != nil {
		w.t.Fatal(err)
	}
	w.both("sync of "+dir, tested.Sync(), model.Sync())
	w.both("close", tested.Close(), model.Close())
}

// separate makes files of their own of what may be links of one: see volatile.
func (w *twins) separate() {
	for f, at := range map[vfs.FS]func(string) string{w.tested: w.at, w.model: func(name string) string { return name }} {
		for _, dir := range twinDirs {
			names, err := f.List(at(dir))
			if err != nil {
				w.t.Fatal(err)
			}
			for _, name := range names {
				path := at(dir + "/" + name)
				if err := vfs.Copy(f, path, path+".copy"); err != nil {
					w.t.Fatal(err)
				}
				if err := f.Rename(path+".copy", path); err != nil {
					w.t.Fatal(err)
				}
			}
		}
	}
	for _, dir := range twinDirs {
		w.syncDir(dir)
	}
}

func (w *twins) actions() map[string]func(*rapid.T) {
	const category = vfs.WriteCategoryUnspecified
	return map[string]func(*rapid.T){
		"": func(*rapid.T) { w.look("now", w.tested, w.model) },
		"create": func(*rapid.T) {
			name := w.name("name")
			f, err := w.tested.Create(w.at(name), category)
			m, modelErr := w.model.Create(name, category)
			w.open("create", name, true, true, f, err, m, modelErr)
		},
		"open": func(*rapid.T) {
			name := w.name("name")
			f, err := w.tested.Open(w.at(name))
			m, modelErr := w.model.Open(name)
			w.open("open", name, false, true, f, err, m, modelErr)
		},
		"open to write": func(*rapid.T) {
			name := w.name("name")
			f, err := w.tested.OpenReadWrite(w.at(name), category)
			m, modelErr := w.model.OpenReadWrite(name, category)
			w.open("open to write", name, true, true, f, err, m, modelErr)
		},
		"reuse": func(*rapid.T) {
			from, to := w.name("from"), w.name("to")
			f, err := w.tested.ReuseForWrite(w.at(from), w.at(to), category)
			m, modelErr := w.model.ReuseForWrite(from, to, category)
			w.open("reuse of "+from+" for", to, true, false, f, err, m, modelErr)
		},
		"write": func(*rapid.T) {
			h, text := w.handle(true), w.text()
			_, err := h.tested.Write(slices.Clone(text))
			_, modelErr := h.model.Write(slices.Clone(text))
			w.both("write to "+h.name, err, modelErr)
		},
		"write at": func(*rapid.T) {
			h, text, at := w.handle(true), w.text(), rapid.Int64Range(0, 20).Draw(w.t, "at")
			_, err := h.tested.WriteAt(slices.Clone(text), at)
			_, modelErr := h.model.WriteAt(slices.Clone(text), at)
			w.both("write to "+h.name, err, modelErr)
		},
		"read": func(*rapid.T) {
			h := w.handle(false)
			if !h.read {
				w.t.Skip("not open to read")
			}
			n := rapid.IntRange(1, 20).Draw(w.t, "bytes")
			got, want := make([]byte, n), make([]byte, n)
			gotN, err := h.tested.Read(got)
			wantN, modelErr := h.model.Read(want)
			if w.both("read", err, modelErr) && (gotN != wantN || string(got[:gotN]) != string(want[:wantN])) {
				w.t.Fatalf("read from %s: %q, in the model %q", h.name, got[:gotN], want[:wantN])
			}
			at := rapid.Int64Range(0, 20).Draw(w.t, "at")
			gotN, err = h.tested.ReadAt(got, at)
			wantN, modelErr = h.model.ReadAt(want, at)
			w.both("read at", err, modelErr)
			if gotN != wantN || string(got[:gotN]) != string(want[:wantN]) {
				w.t.Fatalf("read from %s at %d: %q, in the model %q", h.name, at, got[:gotN], want[:wantN])
			}
		},
		"sync": func(*rapid.T) {
			h := w.handle(false)
			if rapid.Bool().Draw(w.t, "data only") {
				w.both("sync", h.tested.SyncData(), h.model.SyncData())
			} else {
				w.both("sync", h.tested.Sync(), h.model.Sync())
			}
		},
		"sync to": func(*rapid.T) {
			h := w.handle(false)
			if full, err := h.tested.SyncTo(5); full || err != nil {
				w.t.Fatalf("sync to: %v, %v", full, err)
			}
		},
		"close": func(*rapid.T) {
			h := w.handle(false)
			w.both("close", h.tested.Close(), h.model.Close())
			w.handles = slices.DeleteFunc(w.handles, func(p *pair) bool { return p == h })
		},
		"rename": func(*rapid.T) {
			from, to := w.name("from"), w.name("to")
			w.both("rename of "+from+" to "+to, w.tested.Rename(w.at(from), w.at(to)), w.model.Rename(from, to))
		},
		"link": func(*rapid.T) {
			from, to := w.name("from"), w.name("to")
			w.both("link of "+from+" as "+to, w.tested.Link(w.at(from), w.at(to)), w.model.Link(from, to))
		},
		"remove": func(*rapid.T) {
			name := w.name("name")
			w.both("remove of "+name, w.tested.Remove(w.at(name)), w.model.Remove(name))
		},
		"sync directory": func(*rapid.T) { w.syncDir(rapid.SampledFrom(twinDirs).Draw(w.t, "dir")) },
	}
}

func testVolatileModel(t *testing.T, fresh func() (base vfs.FS, root string, after func(vfs.FS) vfs.FS)) {
	rapid.Check(t, func(t *rapid.T) {
		base, root, after := fresh()
		w := newTwins(t, newVolatile(base, 1<<20), root)
		actions := w.actions()
		actions["power cut"] = func(*rapid.T) {
			base = after(base)
			w.tested, w.model, w.handles = newVolatile(base, 1<<20), w.model.CrashClone(vfs.CrashCloneCfg{}), nil
			w.look("after a power cut", w.tested, w.model)
			w.separate()
		}
		t.Repeat(actions)
	})
}

// A volatile disk shows what any other shows, and a power cut leaves exactly
// what was synced.
func TestVolatileModel(t *testing.T) {
	testVolatileModel(t, func() (vfs.FS, string, func(vfs.FS) vfs.FS) {
		// All that reached the base is what a kill of the process leaves.
		all := vfs.CrashCloneCfg{UnsyncedDataPercent: 100, RNG: rand.New(rand.NewPCG(1, 1))}
		return vfs.NewCrashableMem(), "", func(base vfs.FS) vfs.FS { return base.(*vfs.MemFS).CrashClone(all) }
	})
}

// The same above real files. What a killed process leaves open is left open.
func TestVolatileModelOnDisk(t *testing.T) {
	dir, n := t.TempDir(), 0
	testVolatileModel(t, func() (vfs.FS, string, func(vfs.FS) vfs.FS) {
		n++
		root := filepath.Join(dir, fmt.Sprint(n))
		if err := os.Mkdir(root, 0o700); err != nil {
			t.Fatal(err)
		}
		return vfs.Default, root, func(base vfs.FS) vfs.FS { return base }
	})
}

// A disk with nothing bent, and one with next to no memory for what was not
// synced, show what any other shows.
func TestBentDiskShowsWhatOthersShow(t *testing.T) {
	for name, fresh := range map[string]func() vfs.FS{
		"bent":          func() vfs.FS { b := &Bend{}; b.state.Store(&state{}); return &disk{FS: vfs.NewMem(), bend: b} },
		"little memory": func() vfs.FS { return newVolatile(vfs.NewMem(), 16) },
	} {
		t.Run(name, func(t *testing.T) {
			rapid.Check(t, func(t *rapid.T) { t.Repeat(newTwins(t, fresh(), "").actions()) })
		})
	}
}

// Whoever uses the disk leaves nothing behind: no memory, no hidden file, no
// open file.
func TestVolatileKeepsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		base := vfs.NewMem()
		v := newVolatile(base, 1<<20)
		w := newTwins(t, v, "")
		t.Repeat(w.actions())
		for _, h := range w.handles {
			h.tested.Sync()
			h.tested.Close()
		}
		for _, dir := range twinDirs {
			names, err := v.List(dir)
			if err != nil {
				t.Fatal(err)
			}
			for _, name := range names {
				if e := v.names[dir+"/"+name]; e != nil && len(e.now.links) > 1 {
					v.Remove(dir + "/" + name)
					continue
				}
				f, err := v.OpenReadWrite(dir+"/"+name, vfs.WriteCategoryUnspecified)
				if err != nil {
					t.Fatal(err)
				}
				f.Sync()
				f.Close()
			}
		}
		for _, dir := range twinDirs {
			d, err := v.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			d.Sync()
		}
		if len(v.names) != 0 || v.held.Load() != 0 {
			t.Errorf("%d names and %d bytes are kept", len(v.names), v.held.Load())
		}
		for _, dir := range twinDirs {
			names, _ := base.List(dir)
			if slices.ContainsFunc(names, func(n string) bool { return strings.HasPrefix(n, hiddenPrefix) }) {
				t.Errorf("%s is left with %q", dir, names)
			}
		}
	})
}

func TestExtentsAreBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e extents
		model := make([]int, 64) // -1+byte
		for range rapid.IntRange(1, 20).Draw(t, "steps") {
			at := rapid.Int64Range(0, 40).Draw(t, "at")
			n := rapid.Int64Range(1, 20).Draw(t, "n")
			if rapid.Bool().Draw(t, "cut") {
				e = e.cut(at, at+n)
				clear(model[at : at+n])
				continue
			}
			p := rapid.SliceOfN(rapid.Byte(), int(n), int(n)).Draw(t, "bytes")
			e = e.put(at, p)
			for i, b := range p {
				model[at+int64(i)] = int(b) + 1
			}
			clear(p) // it was copied
		}
		got := make([]byte, 64)
		e.over(0, got)
		held := int64(0)
		for i, m := range model {
			want := byte(0)
			if m > 0 {
				want, held = byte(m-1), held+1
			}
			if got[i] != want {
				t.Fatalf("byte %d is %d, not %d", i, got[i], want)
			}
		}
		if e.bytes() != held {
			t.Errorf("%d bytes, not %d", e.bytes(), held)
		}
		for i := 1; i < len(e); i++ {
			if e[i-1].end() > e[i].at {
				t.Errorf("%d to %d before %d", e[i-1].at, e[i-1].end(), e[i].at)
			}
		}
		// Any window of it.
		at := rapid.Int64Range(0, 60).Draw(t, "window")
		window := make([]byte, rapid.Int64Range(0, 64-at).Draw(t, "width"))
		e.over(at, window)
		if string(window) != string(got[at:at+int64(len(window))]) {
			t.Errorf("from %d: %v, not %v", at, window, got[at:at+int64(len(window))])
		}
	})
}
