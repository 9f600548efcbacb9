package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
	"github.com/capstan-kv/capstan/jepsen/report"
)

const (
	reportFile = "report.html"
	// picturePatience bounds how long is looked for what to draw: the verdict is
	// there already.
	picturePatience = 5 * time.Second
	// maxPicture bounds a picture, in bytes: many orders of many operations make
	// pages that no browser likes.
	maxPicture = 8 << 20
)

// writeReport writes the page of a run, whose other files are in dir; empty: it
// has none.
func writeReport(path, dir string, h *history.History, r *check.Result) error {
	o := report.Options{Repeat: repeat(&h.Run)}
	if dir != "" {
		files, err := runFiles(filepath.Dir(path), dir, h)
		if err != nil {
			return err
		}
		o.Files = files
	}
	if workload, key, ok := check.Worst(h, r); ok {
		var page bytes.Buffer
		if check.Picture(&page, h, workload, key, picturePatience) == nil && page.Len() <= maxPicture {
			o.Picture = &report.Picture{Key: key, HTML: page.String()}
		}
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	return errors.Join(report.Write(file, h, r, o), file.Close())
}

// runFiles are those of a run that are there, as links from the page's directory.
func runFiles(from, dir string, h *history.History) (files []report.File, err error) {
	candidates := []report.File{
		{Name: "history", Path: jepsen.HistoryFile},
		{Name: "result", Path: jepsen.ResultFile},
		{Name: "schedule", Path: jepsen.ScheduleFile},
	}
	for _, node := range h.Run.Nodes {
		candidates = append(candidates, report.File{Name: "log of " + node, Path: node + ".log"})
	}
	if from, err = filepath.Abs(from); err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	for _, f := range candidates {
		path := filepath.Join(dir, filepath.Base(f.Path)) // a history says what it likes
		if _, err := os.Stat(path); err != nil {
			continue
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return nil, err
		}
		files = append(files, report.File{Name: f.Name, Path: (filepath.ToSlash(relative))})
	}
	return files, nil
}

// repeat is the command that runs the same once more: a seed that was drawn is
// part of it.
func repeat(r *history.Run) []string {
	if len(r.Command) == 0 {
		return nil
	}
	again := slices.Clone(r.Command)
	rest := []string(nil)
	if i := slices.Index(again, "--"); i >= 0 {
		again, rest = again[:i], slices.Clone(again[i:])
	}
	if !slices.ContainsFunc(again, func(s string) bool { return s == "--seed" || strings.HasPrefix(s, "--seed=") }) {
		again = append(again, "--seed", fmt.Sprint(r.Seed))
	}
	return append(again, rest...)
}
