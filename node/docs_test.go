package node_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameRealTests holds docs/consistency.md and docs/jepsen.md to their word
// that each test they name exists.
func TestDocsNameRealTests(t *testing.T) {
	var named []string
	for _, name := range []string{"consistency.md", "jepsen.md"} {
		page, err := os.ReadFile("../docs/" + name)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`\bTest[A-Z]\w*`).FindAllString(string(page), -1)
		if len(found) == 0 {
			t.Fatalf("docs/%s names no test", name)
		}
		named = append(named, found...)
	}
	function := regexp.MustCompile(`(?m)^func (Test\w+)\(\w+ \*testing\.T\)`)
	exists := map[string]bool{}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && path != ".." && strings.HasPrefix(entry.Name(), "."):
			return fs.SkipDir // tools and version control
		case entry.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		for _, match := range function.FindAllSubmatch(source, -1) {
			exists[string(match[1])] = true
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range named {
		if !exists[name] {
			t.Errorf("the docs name %s, which does not exist", name)
		}
	}
}

// TestDocsNameEveryMetric: the list of metrics in docs/operations.md is what
// node/metrics serves, no more and no less, with the same labels.
func TestDocsNameEveryMetric(t *testing.T) {
	source, err := os.ReadFile("metrics/metrics.go")
	if err != nil {
		t.Fatal(err)
	}
	quoted := regexp.MustCompile(`"([^"]*)"`)
	served := map[string]string{} // name to labels
	for _, m := range regexp.MustCompile(`gauge\("([a-z0-9_]+)", "[^"]*"((?:, "[a-z]+")*)\)`).FindAllStringSubmatch(string(source), -1) {
		var labels []string
		for _, label := range quoted.FindAllStringSubmatch(m[2], -1) {
			labels = append(labels, label[1])
		}
		served["capstan_"+m[1]] = strings.Join(labels, ",")
	}
	for _, m := range regexp.MustCompile(`(?s)Name:\s+"(capstan_[a-z_]+)".*?\n\t\t}(?:, \[\]string{([^}]*)})?`).FindAllStringSubmatch(string(source), -1) {
		served[m[1]] = strings.ReplaceAll(strings.ReplaceAll(m[2], `"`, ""), " ", "")
	}
	if len(served) < 30 {
		t.Fatalf("only %d metrics found in node/metrics", len(served))
	}
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]string{}
	for line := range strings.Lines(string(page)) {
		if !strings.HasPrefix(line, "| `capstan_") {
			continue
		}
		names, _, _ := strings.Cut(strings.TrimPrefix(line, "| "), " | ")
		for _, m := range regexp.MustCompile("`(capstan_[a-z0-9_]+)(?:{([a-z,]+)})?`").FindAllStringSubmatch(names, -1) {
			documented[m[1]] = m[2]
		}
	}
	for name, labels := range served {
		if in, ok := documented[name]; !ok || in != labels {
			t.Errorf("%s{%s} is served; docs/operations.md has it: %v, with labels %q", name, labels, ok, in)
		}
	}
	for name := range documented {
		if _, ok := served[name]; !ok {
			t.Errorf("docs/operations.md names %s, which is not served", name)
		}
	}
}
