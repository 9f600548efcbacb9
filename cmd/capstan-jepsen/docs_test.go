package main

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/jepsen/mutants"
)

// docs/jepsen.md names every workload and nemesis, and none that is not there.
func TestDocsNameWhatThereIs(t *testing.T) {
	page, err := os.ReadFile("../../docs/jepsen.md")
	must(t, err)
	section := func(title string) string {
		_, rest, ok := strings.Cut(string(page), "\n## "+title+"\n")
		if !ok {
			t.Fatalf("no section %s", title)
		}
		text, _, _ := strings.Cut(rest, "\n## ")
		var rows strings.Builder
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "|") {
				rows.WriteString(line)
			}
		}
		return rows.String()
	}
	code := regexp.MustCompile("`([a-z-]+)`")
	compare := func(title, text string, there ...[]listed) {
		var names, told []string
		for _, list := range there {
			for _, x := range list {
				names = append(names, x.Name)
			}
		}
		for _, m := range code.FindAllStringSubmatch(text, -1) {
			told = append(told, m[1])
			if !slices.Contains(names, m[1]) {
				t.Errorf("%s: there is no %s", title, m[1])
			}
		}
		for _, name := range names {
			if !slices.Contains(told, name) {
				t.Errorf("%s: %s is not told of", title, name)
			}
		}
	}
	l := allLists()
	compare("Workloads", section("Workloads"), l.Workloads)
	compare("Nemeses", section("Nemeses"), l.Nemeses, l.Groups)
}

// docs/jepsen.md has a row for every mutant, and for no other.
func TestDocsHaveEveryMutant(t *testing.T) {
	page, err := os.ReadFile("../../docs/jepsen.md")
	must(t, err)
	_, section, _ := strings.Cut(string(page), "\n| fault | what is done wrong |")
	section, _, _ = strings.Cut(section, "\n\n")
	var told, there []string
	for _, m := range regexp.MustCompile("(?m)^\\| `([a-z-]+)` \\|").FindAllStringSubmatch(section, -1) {
		told = append(told, m[1])
	}
	for _, m := range mutants.All() {
		there = append(there, m.Fault)
	}
	if !slices.Equal(told, there) {
		t.Errorf("docs/jepsen.md has %q, there are %q", told, there)
	}
}
