package api

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"
)

// TestDocsOfLimits: docs/limits.md has a row with the right figure for each bound of
// this package that it names, and it names all those that clients can meet.
func TestDocsOfLimits(t *testing.T) {
	bounds := map[string]any{
		"freeBody": freeBody, "freeAnswer": freeAnswer, "MaxMessageSize": MaxMessageSize, "MaxBatchOps": uint32(MaxBatchOps),
		"bodyPatience": bodyPatience, "bodyPressed": bodyPressed, "answerPatience": answerPatience, "answerPressed": answerPressed,
		"streamPatience": streamPatience, "maxStreams": uint32(maxStreams), "maxStreamsPerConnection": uint32(maxStreamsPerConnection),
		"maxStreamBody": maxStreamBody, "maxConcurrentStreams": uint32(maxConcurrentStreams), "maxHeaderBytes": maxHeaderBytes,
		"readHeaderTimeout": readHeaderTimeout, "writeTimeout": writeTimeout, "idleForRoom": idleForRoom, "idleTimeout": idleTimeout,
	}
	page, err := os.ReadFile("../docs/limits.md")
	if err != nil {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for line := range strings.Lines(string(page)) {
		for _, m := range regexp.MustCompile("`api\\.(\\w+)`").FindAllStringSubmatch(line, -1) {
			named[m[1]] = true
			value, known := bounds[m[1]]
			if !known {
				t.Errorf("docs/limits.md names api.%s, which this test does not know", m[1])
			} else if !strings.Contains(line, figure(value)) {
				t.Errorf("api.%s is %s: %s", m[1], figure(value), line)
			}
		}
	}
	for name := range bounds {
		if !named[name] {
			t.Errorf("docs/limits.md does not name api.%s", name)
		}
	}
	// Nobody adds a bound without asking whether it belongs there.
	inside := map[string]bool{
		"MaxKeySize": true, "DefaultMaxValueSize": true, "MaxMaxValueSize": true, "MaxTokenSize": true, "TokenSeparator": true, "MaxAcks": true,
		"MaxReplicas": true, "MaxCutNodes": true, "MaxAwait": true, "DefaultTimeout": true, "MaxTimeout": true, "batchConcurrency": true,
		"compressMinBytes": true, "wireOverhead": true, "drainTimeout": true, "freePiece": true, "answerPiece": true, "defaultBudgetBytes": true,
		"defaultRequests": true, "ownerShare": true, "leastOwnerBytes": true, "pingAfter": true, "pingTimeout": true,
	}
	file, err := parser.ParseFile(token.NewFileSet(), "limits.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.ValueSpec); ok {
			for _, name := range spec.Names {
				if _, documented := bounds[name.Name]; !documented && !inside[name.Name] {
					t.Errorf("limits.go has %s: name it in docs/limits.md and here", name.Name)
				}
			}
		}
		return true
	})
}

// figure is a bound as the page writes it.
func figure(value any) string {
	switch v := value.(type) {
	case time.Duration:
		return fmt.Sprintf("%d s", v/time.Second)
	case uint32: // a count
		if v >= 1000 {
			return fmt.Sprintf("%d,%03d", v/1000, v%1000)
		}
		return fmt.Sprint(v)
	case int:
		if v%(1<<20) == 0 {
			return fmt.Sprintf("%d MiB", v>>20)
		}
		return fmt.Sprintf("%d KiB", v>>10)
	}
	return fmt.Sprint(value)
}
