package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/capstan-kv/capstan/jepsen/check"
)

const (
	// mostFindings that are printed, with mostShown operations each: the report and
	// the JSON have all.
	mostFindings = 3
	mostShown    = 40
)

// outputFlag is -o.
type outputFlag struct{ format string }

func (o *outputFlag) add(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "text", "text or json")
}

func (o *outputFlag) json() (bool, error) {
	switch o.format {
	case "text":
		return false, nil
	case "json":
		return true, nil
	}
	return false, usageErrorf("--output is text or json, not %q", o.format)
}

// write reports what a full disk or a closed pipe does to the output.
func (p *program) write(text string) error {
	if _, err := p.stdout.Write([]byte(text)); err != nil {
		return usageErrorf("it cannot be printed: %w", err)
	}
	return nil
}

// printObject is one line of JSON.
func (p *program) printObject(object any) error {
	var line bytes.Buffer
	encoder := json.NewEncoder(&line) // ends it with a newline
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(object); err != nil {
		return err
	}
	return p.write(line.String())
}

// colours reports whether who reads w sees them, and wants to.
func colours(w io.Writer) bool {
	_, ok := terminal(w)
	return ok && os.Getenv("NO_COLOR") == ""
}

// verdict tells a result to people: the sentence, and what shows it.
func verdict(r *check.Result, colours bool) string {
	var b strings.Builder
	word, rest, ok := strings.Cut(r.Sentence, ":")
	if ok && colours {
		colour := map[check.Verdict]int{check.Holds: 32, check.Violated: 31, check.Void: 33}[r.Verdict]
		word = fmt.Sprintf("\x1b[1;%dm%s\x1b[0m", colour, word)
	}
	if ok {
		rest = ":" + rest
	}
	b.WriteString(word + rest + "\n")
	for i, f := range r.Findings {
		if i == mostFindings {
			fmt.Fprintf(&b, "\nand %d more\n", max(r.Found(), len(r.Findings))-i)
			break
		}
		more := len(f.Ops) - mostShown
		f.Ops = f.Ops[:min(len(f.Ops), mostShown)]
		fmt.Fprintf(&b, "\n%s\n", f)
		if more > 0 {
			fmt.Fprintf(&b, "  and %d more operations\n", more)
		}
	}
	if len(r.Void) > 1 || len(r.Void) == 1 && r.Verdict == check.Violated {
		b.WriteString("\ncould not tell:\n")
		for _, why := range r.Void {
			fmt.Fprintf(&b, "  %s\n", why)
		}
	}
	return b.String()
}
