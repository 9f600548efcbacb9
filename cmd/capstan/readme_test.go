package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// fenced is the blocks of a kind in the README, in order.
func fenced(t *testing.T, kind string) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	var blocks []string
	for _, found := range regexp.MustCompile("(?ms)^```"+kind+"\n(.*?)^```$").FindAllStringSubmatch(string(text), -1) {
		blocks = append(blocks, found[1])
	}
	return blocks
}

// The README shows the tour that TestClusterTourLevels walks, whole and word for
// word.
func TestReadmeShowsTheTour(t *testing.T) {
	tour, err := os.ReadFile(filepath.Join("testdata", "levels.txt"))
	if err != nil {
		t.Fatal(err)
	}
	shown := strings.Split(strings.Join(fenced(t, "console"), "\n"), "\n")
	walked := strings.Split(string(tour), "\n")
	for i := range max(len(shown), len(walked)) {
		if i >= len(shown) || i >= len(walked) || shown[i] != walked[i] {
			t.Fatalf("line %d of the tour:\nREADME  %q\nwalked  %q", i+1, shown[min(i, len(shown)):min(i+1, len(shown))], walked[min(i, len(walked)):min(i+1, len(walked))])
		}
	}
}
