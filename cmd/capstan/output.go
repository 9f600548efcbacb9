package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/capstan-kv/capstan/api/client"
)

// jsonLine is a message on one line, defaults included. protojson varies its
// white space on purpose, from build to build; compacted, the same message is
// the same bytes everywhere.
func jsonLine(m proto.Message) ([]byte, error) {
	loose, err := protojson.MarshalOptions{EmitDefaultValues: true}.Marshal(m)
	if err != nil {
		return nil, err
	}
	var line bytes.Buffer
	if err := json.Compact(&line, loose); err != nil {
		return nil, err
	}
	line.WriteByte('\n')
	return line.Bytes(), nil
}

func (p *program) printJSON(m proto.Message) error {
	line, err := jsonLine(m)
	if err != nil {
		return failuref("the answer cannot be shown as JSON: %w", err)
	}
	return p.write(line)
}

func (p *program) printf(format string, args ...any) error {
	return p.write(fmt.Appendf(nil, format, args...))
}

// write reports what a full disk or a closed pipe does to the output: the
// operation itself is done.
func (p *program) write(b []byte) error {
	p.waiting.stop()
	if _, err := p.stdout.Write(b); err != nil {
		return failuref("done, but it cannot be printed: %w", err)
	}
	return nil
}

// printTable writes what show makes, in one piece.
func (p *program) printTable(show func(io.Writer)) error {
	var out bytes.Buffer
	show(&out)
	return p.write(out.Bytes())
}

// printObject is for answers that are no message: an object of their own.
func (p *program) printObject(object any) error {
	line, err := json.Marshal(object)
	if err != nil {
		return failuref("%w", err)
	}
	return p.write(append(line, '\n'))
}

// note tells something beside the answer.
func (p *program) note(format string, args ...any) {
	p.waiting.stop()
	fmt.Fprintf(p.stderr, format+"\n", args...)
}

// visible is a key or value as it is if a terminal shows it faithfully, else in
// Go's quotes.
func visible(b []byte) string {
	s := string(b)
	if s == "" || strings.HasPrefix(s, `"`) || !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return strconv.Quote(s)
	}
	return s
}

func freshness(f client.Freshness, version client.Version) string {
	state := "committed"
	switch {
	case f.Tentative:
		state = "tentative"
	case version != (client.Version{}):
		state += " " + version.String()
	}
	staleness := "unknown"
	if f.Known {
		staleness = f.Staleness.Round(time.Millisecond).String()
	}
	return fmt.Sprintf("%s, by %s, staleness %s", state, f.ServedBy, staleness)
}
