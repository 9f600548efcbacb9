package node_test

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/capstan-kv/capstan/"

// room is one row of the table in docs/architecture.md.
type room struct{ may, outside []string }

func documentedRooms(t *testing.T) map[string]room {
	t.Helper()
	f, err := os.Open("../docs/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	code := regexp.MustCompile("`([^`]+)`")
	names := func(cell string) []string {
		var out []string
		for _, m := range code.FindAllStringSubmatch(cell, -1) {
			out = append(out, m[1])
		}
		return out
	}
	rooms := map[string]room{}
	inTable := false
	for lines := bufio.NewScanner(f); lines.Scan(); {
		cells := strings.Split(lines.Text(), "|")
		switch {
		case len(cells) != 5:
			inTable = false
		case strings.TrimSpace(cells[1]) == "room":
			inTable = true
		case inTable && len(names(cells[1])) == 1:
			rooms[names(cells[1])[0]] = room{may: names(cells[2]), outside: names(cells[3])}
		}
	}
	if len(rooms) == 0 {
		t.Fatal("docs/architecture.md has no table of rooms")
	}
	return rooms
}

// imports are those of each package of the module.
func imports(t *testing.T, flags ...string) map[string][]string {
	t.Helper()
	list := exec.Command("go", slices.Concat([]string{"list", "-json=ImportPath,Imports"}, flags, []string{"./..."})...)
	list.Dir = ".."
	list.Stderr = os.Stderr
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string][]string{}
	for decoder := json.NewDecoder(strings.NewReader(string(out))); decoder.More(); {
		var pkg struct {
			ImportPath string
			Imports    []string
		}
		if err := decoder.Decode(&pkg); err != nil {
			t.Fatal(err)
		}
		found[pkg.ImportPath] = pkg.Imports
	}
	return found
}

// TestRooms holds the imports of the product (not of its tests), with and
// without the build tag capstan_faults, to the table in docs/architecture.md,
// both ways: nothing is imported that the table does not allow, and the table
// allows nothing that is not imported.
func TestRooms(t *testing.T) {
	rooms := documentedRooms(t)
	imported := imports(t)
	for path, more := range imports(t, "-tags", "capstan_faults") {
		imported[path] = slices.Concat(imported[path], more)
	}
	seen := map[string]bool{}
	for path, imports := range imported {
		name := strings.TrimPrefix(path, module)
		row, ok := rooms[name]
		if !ok {
			t.Errorf("%s is not in the table of docs/architecture.md", name)
			continue
		}
		seen[name] = true
		used := map[string]bool{}
		for _, path := range imports {
			if inside, ok := strings.CutPrefix(path, module); ok {
				if !slices.Contains(row.may, inside) {
					t.Errorf("%s imports %s, which the table does not allow", name, inside)
				}
				used[inside] = true
				continue
			}
			if first, _, _ := strings.Cut(path, "/"); !strings.Contains(first, ".") {
				continue // the standard library
			}
			i := slices.IndexFunc(row.outside, func(dep string) bool {
				return path == dep || strings.HasPrefix(path, dep+"/")
			})
			if i < 0 {
				t.Errorf("%s imports %s, which the table does not allow", name, path)
				continue
			}
			used[row.outside[i]] = true
		}
		for _, allowed := range slices.Concat(row.may, row.outside) {
			if !used[allowed] {
				t.Errorf("the table allows %s to import %s, which it does not", name, allowed)
			}
		}
	}
	for name := range rooms {
		if !seen[name] {
			t.Errorf("the table has a room %s that does not exist", name)
		}
	}
}
