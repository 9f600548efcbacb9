package node

import (
	"fmt"
	"path/filepath"

	"github.com/capstan-kv/capstan/storage"
)

// openMarks opens the file that says how far log/, state/ and control.bolt were written.
// The directory of a release that had none gets it at its first start.
func (n *Node) openMarks() (err error) {
	n.marks, err = storage.OpenMarks(storage.MarksOptions{
		FS: n.config.FS, Path: filepath.Join(n.config.DataDir, "marks"), NodeID: n.id, MustExist: n.identity.HasMarks(),
		Failed: func(err error) { n.fail(fmt.Errorf("marks of log/ and control.bolt: %w", err)) },
	})
	if err != nil {
		return err
	}
	n.onClose(n.marks.Close)
	return n.identity.SetHasMarks()
}
