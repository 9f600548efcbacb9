package main

import (
	"os"
	"os/exec"
	"path/filepath"
)

// findBinary is the capstan to test: the one that is named, else the one beside
// this program, else the one that a shell would find.
func findBinary(named string) (string, error) {
	if named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", usageErrorf("--binary: %w", err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), "capstan")
		if path, err := exec.LookPath(beside); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath("capstan")
	if err != nil {
		return "", usageErrorf("there is no capstan beside this program, nor in PATH").hint("--binary PATH, or make build")
	}
	return filepath.Abs(path)
}
