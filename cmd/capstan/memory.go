package main

import (
	"fmt"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/capstan-kv/capstan/node"
)

// byteSize is a flag's number of bytes: 536870912, 512MiB, 1GiB.
type byteSize int64

var byteUnits = []struct {
	suffix string
	bytes  int64
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", 1 << 40}, {"B", 1}, {"", 1}}

// Set implements pflag.Value.
func (b *byteSize) Set(text string) error {
	for _, unit := range byteUnits {
		number, ok := strings.CutSuffix(text, unit.suffix)
		if !ok {
			continue
		}
		n, err := strconv.ParseInt(number, 10, 64)
		if err != nil || n < 0 || n > math.MaxInt64/unit.bytes {
			break
		}
		*b = byteSize(n * unit.bytes)
		return nil
	}
	return fmt.Errorf("not a number of bytes; try: 512MiB, or 2GiB")
}

// String implements pflag.Value.
func (b *byteSize) String() string {
	switch n := int64(*b); {
	case n == 0:
		return "0"
	case n%(1<<30) == 0:
		return fmt.Sprintf("%dGiB", n>>30)
	case n%(1<<20) == 0:
		return fmt.Sprintf("%dMiB", n>>20)
	default:
		return strconv.FormatInt(n, 10)
	}
}

// Type implements pflag.Value.
func (*byteSize) Type() string { return "bytes" }

// memoryLimits are what may bound a node's memory, in bytes; 0: it does not.
type memoryLimits struct {
	flag        int64 // --memory-limit
	environment int64 // GOMEMLIMIT
	cgroup      int64 // of the container or unit
	machine     int64
}

// choose gives the memory that the node sizes itself for, and why.
func (m memoryLimits) choose() (limit int64, why string) {
	switch {
	case m.flag > 0:
		return m.flag, "--memory-limit"
	case m.environment > 0:
		return m.environment, "GOMEMLIMIT"
	case m.cgroup > 0 && (m.machine == 0 || m.cgroup <= m.machine):
		// Beyond it the kernel ends the process, and it counts page cache and
		// sockets too.
		return max(m.cgroup/10*9, node.LeastMemory), "the cgroup's limit"
	case m.machine > 0 && m.machine/2 < node.DefaultMemory:
		return max(m.machine/2, node.LeastMemory), "half of this machine's memory"
	}
	return node.DefaultMemory, "the default"
}

// limitMemory sizes the node and bounds Go's heap.
func (s *serveSettings) limitMemory(logger *slog.Logger) {
	m := memoryLimits{flag: int64(s.memoryLimit), cgroup: cgroupLimit(os.DirFS("/")), machine: machineMemory(os.DirFS("/"))}
	if goLimit := debug.SetMemoryLimit(-1); goLimit != math.MaxInt64 {
		m.environment = max(goLimit, node.LeastMemory)
	}
	limit, why := m.choose()
	if m.cgroup > 0 && limit > m.cgroup {
		logger.Warn("the node is sized for more memory than its cgroup allows: the kernel may end it",
			"memory_mib", limit>>20, "from", why, "cgroup_mib", m.cgroup>>20)
	}
	s.config.MemoryLimit = limit
	debug.SetMemoryLimit(node.GoMemory(limit))
	logger.Info("memory", "limit_mib", limit>>20, "from", why, "go_mib", node.GoMemory(limit)>>20)
}

// cgroupLimit is the least memory limit of this process's cgroup and those above it;
// 0 if there is none, or no cgroup.
func cgroupLimit(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	least := int64(0)
	for line := range strings.Lines(string(text)) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) != 3 {
			continue
		}
		mount, file := "sys/fs/cgroup", "memory.max"
		if parts[0] != "0" {
			if !strings.Contains(","+parts[1]+",", ",memory,") {
				continue
			}
			mount, file = "sys/fs/cgroup/memory", "memory.limit_in_bytes"
		}
		// A container may see its own cgroup at the root of the mount.
		for dir := path.Join("/", parts[2]); ; dir = path.Dir(dir) {
			if n := readLimit(root, path.Join(mount, dir, file)); n > 0 && (least == 0 || n < least) {
				least = n
			}
			if dir == "/" {
				break
			}
		}
	}
	return least
}

// noLimit is above what any machine has; cgroup v1 says 2^63 rounded to a page for
// "none".
const noLimit = 1 << 60

func readLimit(root fs.FS, name string) int64 {
	text, err := fs.ReadFile(root, name)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	if err != nil || n >= noLimit { // "max"
		return 0
	}
	return n
}

// machineMemory is 0 where the system does not tell.
func machineMemory(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/meminfo")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, "MemTotal:"); ok {
			kib, err := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			if err == nil {
				return kib << 10
			}
		}
	}
	return 0
}

// checkFiles sizes the node for the files that it may have open, and warns if they are
// few.
func (s *serveSettings) checkFiles(logger *slog.Logger) {
	s.config.FileLimit = fileLimit()
	if n := s.config.FileLimit; n > 0 && n < node.FewFiles {
		logger.Warn("the limit on open files is low: few clients can connect",
			"limit", n, "wanted", node.FewFiles, "try", "ulimit -n, or LimitNOFILE= of the systemd unit")
	}
}

// checkDirectory warns if others may read the data, and keeps new files private.
func (s *serveSettings) checkDirectory(logger *slog.Logger) {
	privateFiles()
	info, err := os.Stat(s.config.DataDir)
	if err == nil && info.Mode().Perm()&0o077 != 0 {
		logger.Warn("other users of this machine may read the data directory, keys and the cluster's secret included",
			"dir", s.config.DataDir, "mode", info.Mode().Perm().String(), "try", "chmod 700 "+s.config.DataDir)
	}
}
