package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"github.com/capstan-kv/capstan/jepsen"
)

// findBinary is the program to test: the one that is named, else that of a name
// beside this program, else the one that a shell would find.
func findBinary(named, usual string) (string, error) {
	if named != "" {
		path, err := exec.LookPath(named)
		if err != nil {
			return "", usageErrorf("--binary: %w", err)
		}
		return filepath.Abs(path)
	}
	if self, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(self), usual)
		if path, err := exec.LookPath(beside); err == nil {
			return path, nil
		}
	}
	path, err := exec.LookPath(usual)
	if err != nil {
		target := map[string]string{"capstan": "build", faultBinary: "build-faults"}[usual]
		return "", usageErrorf("there is no %s beside this program, nor in PATH", usual).hint("--binary PATH, or make " + target)
	}
	return filepath.Abs(path)
}

// canPlant says why a binary cannot have a fault planted: it would run without, and
// nobody would know.
func canPlant(ctx context.Context, binary, fault string) error {
	said, err := jepsen.AskProgram(ctx, binary)
	if err != nil {
		return usageErrorf("%w", err)
	}
	switch {
	case len(said.Plantable) == 0:
		return usageErrorf("--plant: %s is no build with planted faults", binary).hint("make build-faults, then --binary bin/capstan-faults")
	case !slices.Contains(said.Plantable, fault):
		return usageErrorf("--plant: no fault %q: there are %s", fault, strings.Join(said.Plantable, ", "))
	}
	return nil
}
