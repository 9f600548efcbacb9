//go:build linux

package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"
)

var (
	curlToken = regexp.MustCompile(`(Capstan-Session: |"session":"|wr_)([\w-]*)`)
	curlNode  = regexp.MustCompile(`\bn\d(-[a-z0-9]{4})?\b`)
)

// butForNames is a line of an answer without what differs from run to run.
func butForNames(line string) string {
	line = curlNode.ReplaceAllString(curlToken.ReplaceAllString(line, "$1"), "node")
	return tourDigits.ReplaceAllString(line, "N")
}

// What the README does with curl works as it is written: the lines shown are
// among those of the answer, in their order.
func TestClusterReadmeCurl(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("curl is not installed: the README's lines for it are not tried")
	}
	c := startCluster(t, 3)
	at := strings.NewReplacer("127.0.0.1:7820", c.nodes[0].ip+":7820", "127.0.0.1:7830", c.nodes[1].ip+":7820", "127.0.0.1:7840", c.nodes[2].ip+":7820")
	known := map[string]string{} // what stands for a receipt or a token
	steps := 0
	for _, block := range fenced(t, "shell-session") {
		for step := range strings.SplitSeq(strings.TrimPrefix(block, "$ "), "\n$ ") {
			steps++
			command, shows, _ := strings.Cut(strings.TrimRight(step, "\n"), "\n")
			typed := at.Replace(command)
			for shown, real := range known {
				typed = strings.ReplaceAll(typed, shown, real)
			}
			answer, err := exec.CommandContext(t.Context(), "bash", "-c", typed).Output()
			if err != nil {
				t.Fatalf("$ %s\n%v", typed, err)
			}
			lines := strings.Split(strings.ReplaceAll(string(answer), "\r\n", "\n"), "\n")
			for shown := range strings.SplitSeq(shows, "\n") {
				for len(lines) > 0 && butForNames(lines[0]) != butForNames(shown) {
					lines = lines[1:]
				}
				if len(lines) == 0 {
					t.Fatalf("$ %s\ndoes not show %q, or not there:\n%s", typed, shown, answer)
				}
				real := curlToken.FindAllStringSubmatch(lines[0], -1)
				for i, token := range curlToken.FindAllStringSubmatch(shown, -1) {
					known[token[2]] = real[i][2]
				}
			}
		}
	}
	if steps < 5 {
		t.Errorf("only %d steps: the README lost some", steps)
	}
}
