package node

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestLimits: whatever memory and files there are, the parts fit into the whole, and
// a node with less never gets more.
func TestLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		memory := rapid.Int64Range(LeastMemory, 64<<30).Draw(t, "memory")
		files := rapid.IntRange(64, 1<<20).Draw(t, "files")
		l := limitsFor(memory, files)
		outside := l.stateCache + l.logCache + 2*int64(l.stateTable+l.logTable)
		if GoMemory(memory)+outside > memory {
			t.Fatalf("%d MiB for Go and %d MiB outside of %d", GoMemory(memory)/mib, outside/mib, memory/mib)
		}
		// Attacks fill one or two budgets, a busy node all of them a little.
		if held := 2*l.clients + l.scans; held > GoMemory(memory) {
			t.Fatalf("budgets of clients hold %d MiB of %d", held/mib, GoMemory(memory)/mib)
		}
		if l.connections < leastConnections || l.perAddress > l.connections || l.perAddress < 1 {
			t.Fatalf("%+v", l)
		}
		if files >= FewFiles && l.connections+l.stateFiles+l.logFiles+fixedFiles > files {
			t.Fatalf("%d files: %+v", files, l)
		}
		if less := limitsFor(memory-1, files); less.clients > l.clients || less.scans > l.scans || less.logTable > l.logTable || less.connections > l.connections {
			t.Fatalf("%+v with less, %+v", less, l)
		}
	})
}

// TestDocsOfLimits: the figures of docs/limits.md are those of the code.
func TestDocsOfLimits(t *testing.T) {
	small, usual := limitsFor(512*mib, 1<<20), limitsFor(1024*mib, 1<<20)
	sizes := map[string][2]int64{
		"stateCache": {small.stateCache, usual.stateCache}, "logCache": {small.logCache, usual.logCache},
		"logTable": {int64(small.logTable), int64(usual.logTable)}, "stateTable": {int64(small.stateTable), int64(usual.stateTable)},
		"goMemory": {GoMemory(512 * mib), GoMemory(1024 * mib)}, "clients": {small.clients, usual.clients},
		"scans": {small.scans, usual.scans}, "oneScan": {small.oneScan, usual.oneScan},
		"forwarded": {small.forwarded, usual.forwarded}, "fromPeer": {small.fromPeer, usual.fromPeer},
		"proposals": {small.proposals, usual.proposals}, "recent": {small.recent, usual.recent},
	}
	figures := map[string]string{
		"requests": fmt.Sprintf("%d,%03d at 512 MiB", small.requests/1000, small.requests%1000), "maxScans": fmt.Sprint(maxScans), "maxPageReads": fmt.Sprint(maxPageReads),
		"connections": fmt.Sprintf("%d KiB", connectionBytes>>10), "perAddress": "three quarters", "profileConnections": fmt.Sprint(profileConnections),
		"fixedFiles": fmt.Sprint(fixedFiles), "stateFiles": fmt.Sprintf("%d to %d", limitsFor(LeastMemory, 1).stateFiles, usual.stateFiles),
		"logFiles": fmt.Sprintf("%d to %d", limitsFor(LeastMemory, 1).logFiles, usual.logFiles), "FewFiles": "1,024",
	}
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		cells := strings.Split(line, "|")
		for _, m := range regexp.MustCompile("`node\\.(\\w+)`").FindAllStringSubmatch(line, -1) {
			seen[m[1]] = true
			size, isSize := sizes[m[1]]
			text, isFigure := figures[m[1]]
			switch {
			case isSize && len(cells) == 7: // of the table of memory
				for i, want := range []string{fmt.Sprintf("%d MiB", size[0]/mib), fmt.Sprintf("%d MiB", size[1]/mib)} {
					if got := strings.TrimSpace(cells[3+i]); got != want {
						t.Errorf("node.%s: %s, is %s", m[1], got, want)
					}
				}
			case isFigure && !strings.Contains(line, text):
				t.Errorf("node.%s: want %q in: %s", m[1], text, line)
			case !isSize && !isFigure:
				t.Errorf("docs/limits.md names node.%s, which this test does not know", m[1])
			}
		}
	}
	for name := range sizes {
		if !seen[name] {
			t.Errorf("docs/limits.md does not name node.%s", name)
		}
	}
	for name := range figures {
		if !seen[name] {
			t.Errorf("docs/limits.md does not name node.%s", name)
		}
	}
}
