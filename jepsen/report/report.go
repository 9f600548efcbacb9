package report

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"strings"

	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// Options are what a page shows that is neither in the history nor in the result.
type Options struct {
	// Repeat is the command that runs the same once more, in words. Empty: it is
	// not told.
	Repeat []string
	// Files that lie beside the page, in the order to show them.
	Files []File
	// Picture of one key; nil: none.
	Picture *Picture
}

// File is a link to something beside the page.
type File struct {
	Name string
	Path string // relative, with slashes
}

// Picture is a page of its own, shown inside: porcupine's, of one key.
type Picture struct {
	Key  string
	HTML string
}

// Errors of Write.
var (
	// ErrPath: a File is not beside the page.
	ErrPath = errors.New("a link of a report is relative")
)

//go:embed page.html
var pageHTML string

//go:embed page.css
var pageCSS string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// Write writes the page. What it returns is an error of w, or ErrPath.
func Write(w io.Writer, h *history.History, r *check.Result, o Options) error {
	for _, f := range o.Files {
		if f.Path == "" || strings.HasPrefix(f.Path, "/") || strings.Contains(f.Path, ":") {
			return fmt.Errorf("%w, not %q", ErrPath, f.Path)
		}
	}
	var out bytes.Buffer // a page that breaks off would be shown as if it were whole
	if err := pageTemplate.Execute(&out, newPage(h, r, o)); err != nil {
		return err
	}
	_, err := w.Write(out.Bytes())
	return err
}
