package bend

import (
	"cmp"
	"errors"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/cockroachdb/pebble/v2/vfs"
)

const (
	// volatileBytes is how much a volatile disk holds in memory. Beyond it, what is
	// written goes to the base although nobody asked for it, as an operating
	// system does; nothing is promised by that. A few memtables and the largest
	// tables fit.
	volatileBytes = 256 << 20
	// hiddenPrefix begins the names of what the base has and nobody is to see:
	// files whose entry was not synced. What a power cut has left of them goes
	// when something in their directory is written.
	hiddenPrefix = ".unsynced-"
)

// volatile is a file system that a kill of the process cuts from power: what
// was not synced is in its memory only, and the base is what a power cut would
// leave. Content is synced by a sync of the file, its name by one of the
// directory. Both are lost by themselves: a file may be there without content,
// and content without a name is gone.
//
// That two names are links of one file is not seen in what was there before
// the process: what is written by one name then shows by the other only when it
// was synced, and not even that is certain. Databases write no such files.
//
// Directories are not volatile: making and removing them goes through at once,
// and so do lock files, and RemoveAll. A power cut may leave that just as well.
//
// Safe for concurrent use, as far as its files are: see [vfs.File].
type volatile struct {
	vfs.FS // the base
	most   int64
	held   atomic.Int64 // bytes of all files in memory

	mu     sync.Mutex
	names  map[string]*entry // those that are not the same as in the base, or in use
	swept  map[string]bool   // directories without hidden leftovers
	serial uint64            // of hidden names and of changes
}

// entry is what a name stands for. Neither is set for a name that is not there.
type entry struct {
	now   *inode // as seen
	base  *inode // as a power cut leaves it
	since uint64 // orders the changes of now
}

func newVolatile(base vfs.FS, most int64) *volatile {
	return &volatile{FS: base, most: most, names: map[string]*entry{}, swept: map[string]bool{}}
}

func (v *volatile) Unwrap() vfs.FS { return v.FS }

// clean makes one name of all ways to write it.
func (v *volatile) clean(path string) string { return v.PathJoin(path) }

func fail(op, path string, err error) error { return &fs.PathError{Op: op, Path: path, Err: err} }

// load is the entry of a name, made if nobody has asked for it before; v.mu is
// held, as in all that follows up to the methods of FS. A directory is EISDIR.
func (v *volatile) load(path string) (*entry, error) {
	if e := v.names[path]; e != nil {
		return e, nil
	}
	e := &entry{}
	info, err := v.FS.Stat(path)
	switch {
	case err == nil && info.IsDir():
		return nil, fail("open", path, syscall.EISDIR)
	case err == nil:
		i := &inode{disk: v, links: []string{path}, paths: []string{path}, size: info.Size()}
		e.now, e.base = i, i
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	v.names[path] = e
	return e, nil
}

// found is load for a name that must be there.
func (v *volatile) found(op, path string) (*entry, error) {
	e, err := v.load(path)
	if err != nil {
		return nil, err
	}
	if e.now == nil {
		v.settle(path)
		return nil, fail(op, path, fs.ErrNotExist)
	}
	return e, nil
}

// settle forgets a name that stands for the same as in the base, with nothing
// to write and nobody who has it open.
func (v *volatile) settle(path string) {
	e := v.names[path]
	if e == nil || e.now != e.base {
		return
	}
	if i := e.now; i != nil {
		// That several names are one file is known here only.
		if i.handles > 0 || len(i.links) > 1 || len(i.paths) > 1 || !i.clean() {
			return
		}
		_ = i.forget() // everything was synced
	}
	delete(v.names, path)
}

// show makes a name stand for i, or for nothing.
func (v *volatile) show(path string, e *entry, i *inode) error {
	before := e.now
	v.serial++
	e.now, e.since = i, v.serial
	if i != nil {
		i.links = append(i.links, path)
	}
	if before == nil {
		return nil
	}
	before.links = without(before.links, path)
	v.settle(path)
	return v.release(before)
}

// release gives up what an inode that has lost a name, or was closed, needs no
// more.
func (v *volatile) release(i *inode) error {
	var errs []error
	if len(i.links) == 0 {
		for _, path := range i.hidden {
			errs = append(errs, v.FS.Remove(path))
			i.paths = without(i.paths, path)
		}
		i.hidden = nil
		if i.handles == 0 {
			errs = append(errs, i.forget())
		}
	}
	for _, path := range slices.Clone(i.links) {
		v.settle(path)
	}
	return errors.Join(errs...)
}

// hide is a fresh hidden name in a directory.
func (v *volatile) hide(dir string) (string, error) {
	if err := v.sweep(dir); err != nil {
		return "", err
	}
	v.serial++
	return v.PathJoin(dir, hiddenPrefix+strconv.FormatUint(v.serial, 10)), nil
}

// sweep removes from a directory what processes before this one have hidden.
func (v *volatile) sweep(dir string) error {
	if v.swept[dir] {
		return nil
	}
	names, err := v.FS.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if strings.HasPrefix(name, hiddenPrefix) {
			if err := v.FS.Remove(v.PathJoin(dir, name)); err != nil {
				return err
			}
		}
	}
	v.swept[dir] = true
	return nil
}

// keep gives an inode that is about to lose one of its paths in the base
// another one, if names still stand for it.
func (v *volatile) keep(i *inode, losing func(path string) bool) error {
	if len(i.links) == 0 || slices.ContainsFunc(i.paths, func(path string) bool { return !losing(path) }) {
		return nil
	}
	hidden, err := v.hide(v.PathDir(i.links[0]))
	if err != nil {
		return err
	}
	if err := v.FS.Link(i.paths[0], hidden); err != nil {
		return err
	}
	i.paths, i.hidden = append(i.paths, hidden), append(i.hidden, hidden)
	return nil
}

// syncNames brings the names of a directory to the base. A kill may come in
// between: so they come in the order in which they were given, before others go,
// and a name that stands for something else does so from one moment to the next.
func (v *volatile) syncNames(dir string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	var come, gone []string
	for path, e := range v.names {
		switch {
		case v.PathDir(path) != dir || e.now == e.base:
		case e.now != nil:
			come = append(come, path)
		default:
			gone = append(gone, path)
		}
	}
	for _, list := range [][]string{come, gone} {
		slices.SortFunc(list, func(a, b string) int { return cmp.Compare(v.names[a].since, v.names[b].since) })
	}
	var errs []error
	for _, path := range come {
		errs = append(errs, v.bring(dir, path, v.names[path]))
	}
	for _, path := range gone {
		if e := v.names[path]; e.base != nil { // bring may have moved it
			errs = append(errs, v.drop(path, e))
		}
	}
	for _, path := range slices.Concat(come, gone) {
		v.settle(path)
	}
	return errors.Join(errs...)
}

// bring makes the base's name stand for what is seen.
func (v *volatile) bring(dir, path string, e *entry) error {
	i, before := e.now, e.base
	if before != nil {
		if err := v.keep(before, func(p string) bool { return p == path }); err != nil {
			return err
		}
	}
	// A name that goes from this directory is renamed, and so is a hidden one.
	from := slices.IndexFunc(i.paths, func(p string) bool {
		if slices.Contains(i.hidden, p) {
			return true
		}
		at := v.names[p]
		return v.PathDir(p) == dir && at != nil && at.now == nil
	})
	var source string
	if from >= 0 {
		source = i.paths[from]
		i.paths, i.hidden = without(i.paths, source), without(i.hidden, source)
		if at := v.names[source]; at != nil {
			at.base = nil
		}
	} else {
		var err error
		if source, err = v.hide(dir); err != nil {
			return err
		}
		if err := v.FS.Link(i.paths[0], source); err != nil {
			return err
		}
	}
	if err := v.FS.Rename(source, path); err != nil {
		return err
	}
	// To rename one link of a file to another does nothing.
	if err := v.FS.Remove(source); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	i.paths = append(i.paths, path)
	e.base = i
	if before != nil {
		before.paths = without(before.paths, path)
		return v.release(before)
	}
	return nil
}

// drop takes a name from the base.
func (v *volatile) drop(path string, e *entry) error {
	i := e.base
	if err := v.keep(i, func(p string) bool { return p == path }); err != nil {
		return err
	}
	if err := v.FS.Remove(path); err != nil {
		return err
	}
	i.paths = without(i.paths, path)
	e.base = nil
	return v.release(i)
}

func without(list []string, item string) []string {
	return slices.DeleteFunc(slices.Clone(list), func(s string) bool { return s == item })
}

// create makes a file that nothing stands for yet.
func (v *volatile) create(dir string, c vfs.DiskWriteCategory) (*inode, error) {
	hidden, err := v.hide(dir)
	if err != nil {
		return nil, err
	}
	f, err := v.FS.Create(hidden, c)
	if err != nil {
		return nil, err
	}
	return &inode{disk: v, paths: []string{hidden}, hidden: []string{hidden}, writer: f}, nil
}

// writable opens the file of a name, for reading and writing.
func (v *volatile) writable(path string, i *inode, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.writer == nil {
		f, err := v.FS.OpenReadWrite(i.paths[0], c)
		if err != nil {
			return nil, err
		}
		i.writer = f
	}
	for _, o := range opts {
		o.Apply(i.writer)
	}
	i.handles++
	return &volatileFile{File: i.writer, inode: i, path: path, write: true}, nil
}

func (v *volatile) Create(path string, c vfs.DiskWriteCategory) (vfs.File, error) {
	path = v.clean(path)
	v.mu.Lock()
	defer v.mu.Unlock()
	e, err := v.load(path)
	if err != nil {
		return nil, err
	}
	i, err := v.create(v.PathDir(path), c)
	if err != nil {
		v.settle(path)
		return nil, err
	}
	if err := v.show(path, e, i); err != nil {
		return nil, err
	}
	return v.writable(path, i, c)
}

func (v *volatile) OpenReadWrite(path string, c vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	path = v.clean(path)
	v.mu.Lock()
	defer v.mu.Unlock()
	e, err := v.load(path)
	if err != nil {
		return nil, err
	}
	if e.now == nil {
		i, err := v.create(v.PathDir(path), c)
		if err != nil {
			v.settle(path)
			return nil, err
		}
		if err := v.show(path, e, i); err != nil {
			return nil, err
		}
	}
	return v.writable(path, e.now, c, opts...)
}

func (v *volatile) ReuseForWrite(oldPath, newPath string, c vfs.DiskWriteCategory) (vfs.File, error) {
	oldPath, newPath = v.clean(oldPath), v.clean(newPath)
	v.mu.Lock()
	defer v.mu.Unlock()
	if err := v.rename(oldPath, newPath); err != nil {
		return nil, err
	}
	e, err := v.found("open", newPath)
	if err != nil {
		return nil, err
	}
	return v.writable(newPath, e.now, c)
}

func (v *volatile) Open(path string, opts ...vfs.OpenOption) (vfs.File, error) {
	path = v.clean(path)
	v.mu.Lock()
	defer v.mu.Unlock()
	e, err := v.found("open", path)
	if errors.Is(err, syscall.EISDIR) {
		return v.FS.Open(path, opts...)
	}
	if err != nil {
		return nil, err
	}
	f, err := v.FS.Open(e.now.paths[0], opts...)
	if err != nil {
		return nil, err
	}
	e.now.handles++
	return &volatileFile{File: f, inode: e.now, path: path}, nil
}

func (v *volatile) OpenDir(path string) (vfs.File, error) {
	path = v.clean(path)
	f, err := v.FS.OpenDir(path)
	if err != nil {
		return nil, err
	}
	return &volatileDir{File: f, disk: v, path: path}, nil
}

func (v *volatile) Link(oldPath, newPath string) error {
	oldPath, newPath = v.clean(oldPath), v.clean(newPath)
	v.mu.Lock()
	defer v.mu.Unlock()
	from, err := v.found("link", oldPath)
	if err != nil {
		return err
	}
	to, err := v.load(newPath)
	if err == nil && to.now == nil {
		_, err = v.FS.Stat(v.PathDir(newPath))
	} else if err == nil || errors.Is(err, syscall.EISDIR) {
		err = &os.LinkError{Op: "link", Old: oldPath, New: newPath, Err: fs.ErrExist}
	}
	if err == nil {
		err = v.show(newPath, to, from.now)
	}
	v.settle(newPath)
	v.settle(oldPath)
	return err
}

func (v *volatile) Rename(oldPath, newPath string) error {
	oldPath, newPath = v.clean(oldPath), v.clean(newPath)
	v.mu.Lock()
	defer v.mu.Unlock()
	err := v.rename(oldPath, newPath)
	if errors.Is(err, syscall.EISDIR) {
		return &os.LinkError{Op: "rename", Old: oldPath, New: newPath, Err: errors.ErrUnsupported} // nobody does
	}
	return err
}

func (v *volatile) rename(oldPath, newPath string) error {
	from, err := v.found("rename", oldPath)
	if err != nil || oldPath == newPath {
		return err
	}
	to, err := v.load(newPath)
	if err == nil && to.now == nil {
		_, err = v.FS.Stat(v.PathDir(newPath))
	}
	if err != nil {
		v.settle(newPath)
		v.settle(oldPath)
		return err
	}
	if to.now != from.now { // or else both are links of one file, and only one stays
		if err := v.show(newPath, to, from.now); err != nil {
			return err
		}
	}
	return v.show(oldPath, from, nil)
}

func (v *volatile) Remove(path string) error {
	path = v.clean(path)
	v.mu.Lock()
	e, err := v.found("remove", path)
	if err == nil {
		defer v.mu.Unlock()
		return v.show(path, e, nil)
	}
	v.mu.Unlock()
	if !errors.Is(err, syscall.EISDIR) {
		return err
	}
	// The base refuses to remove a directory that is not empty there: what is
	// seen to be gone has to go, and what is hidden.
	names, err := v.List(path)
	if err != nil {
		return err
	}
	if len(names) > 0 {
		return fail("remove", path, syscall.ENOTEMPTY)
	}
	return v.RemoveAll(path)
}

func (v *volatile) RemoveAll(path string) error {
	path = v.clean(path)
	v.mu.Lock()
	defer v.mu.Unlock()
	beneath := func(p string) bool { return p == path || strings.HasPrefix(p, v.PathJoin(path, "x")[:len(path)+1]) }
	inodes := map[*inode]bool{}
	for p, e := range v.names {
		inodes[e.now], inodes[e.base] = true, true
		if beneath(p) && e.now != nil {
			e.now.links = without(e.now.links, p)
			e.now = nil
		}
	}
	delete(inodes, nil)
	for i := range inodes {
		if err := v.keep(i, beneath); err != nil {
			return err
		}
		i.paths, i.hidden = slices.DeleteFunc(i.paths, beneath), slices.DeleteFunc(i.hidden, beneath)
	}
	maps.DeleteFunc(v.names, func(p string, _ *entry) bool { return beneath(p) })
	maps.DeleteFunc(v.swept, func(p string, _ bool) bool { return beneath(p) })
	errs := []error{v.FS.RemoveAll(path)}
	for i := range inodes {
		errs = append(errs, v.release(i))
	}
	return errors.Join(errs...)
}

func (v *volatile) List(dir string) ([]string, error) {
	dir = v.clean(dir)
	v.mu.Lock()
	defer v.mu.Unlock()
	names, err := v.FS.List(dir)
	if err != nil {
		return nil, err
	}
	names = slices.DeleteFunc(names, func(name string) bool {
		e := v.names[v.PathJoin(dir, name)]
		return strings.HasPrefix(name, hiddenPrefix) || e != nil
	})
	for path, e := range v.names {
		if v.PathDir(path) == dir && e.now != nil {
			names = append(names, v.PathBase(path))
		}
	}
	return names, nil
}

func (v *volatile) Stat(path string) (vfs.FileInfo, error) {
	path = v.clean(path)
	v.mu.Lock()
	defer v.mu.Unlock()
	e, err := v.found("stat", path)
	if errors.Is(err, syscall.EISDIR) {
		return v.FS.Stat(path)
	}
	if err != nil {
		return nil, err
	}
	info, err := v.FS.Stat(e.now.paths[0])
	if err != nil {
		return nil, err
	}
	stat := e.now.stat(info, v.PathBase(path))
	v.settle(path)
	return stat, nil
}
