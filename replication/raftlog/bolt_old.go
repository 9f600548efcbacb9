package raftlog

import (
	"encoding/binary"
	"errors"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
)

// oldValueNode is where a file of raft-boltdb's format has the node's id.
const oldValueNode = "capstan/node"

// readOld reads a file of raft-boltdb's format, which earlier releases wrote. It has no
// checksums: what it holds is taken as it is.
func (c *boltContent) readOld(path string) error {
	old, err := raftboltdb.New(raftboltdb.Options{
		Path: path, BoltOptions: &bbolt.Options{Timeout: boltLockWait, ReadOnly: true}, MsgpackUseNewTimeFormat: true,
	})
	if err != nil {
		return err
	}
	return errors.Join(c.copyOld(old), old.Close())
}

func (c *boltContent) copyOld(old *raftboltdb.BoltStore) error {
	get := func(name string) ([]byte, error) {
		v, err := old.Get([]byte(name))
		if errors.Is(err, raftboltdb.ErrKeyNotFound) {
			return nil, nil
		}
		return append([]byte{}, v...), err
	}
	node, err := get(oldValueNode)
	if err != nil {
		return err
	}
	c.node = string(node)
	has := map[string][]byte{}
	for _, name := range []string{keyCurrentTerm, valueVote, valueSnapshot, valueBootstrap} {
		v, err := get(name)
		if err != nil {
			return err
		}
		if v != nil {
			has[name] = v
			c.values = append(c.values, value{name, v})
		}
	}
	first, err := old.FirstIndex()
	if err != nil {
		return err
	}
	last, err := old.LastIndex()
	if err != nil {
		return err
	}
	for i := first; i <= last && i > 0; i++ {
		var l raft.Log
		if err := old.GetLog(i, &l); err != nil {
			return damaged("entry %d of %d to %d can not be read (%v)", i, first, last, err)
		}
		if l.Index != i {
			return damaged("entry %d stands in the place of entry %d", l.Index, i)
		}
		c.entries = append(c.entries, toEntries(&l)...)
	}
	// An old release wrote the first configuration in three steps. What a crash has
	// broken off is finished here.
	configuration := has[valueBootstrap]
	if configuration == nil {
		return nil
	}
	if len(has[keyCurrentTerm]) != 8 || binary.BigEndian.Uint64(has[keyCurrentTerm]) < bootstrapTerm {
		c.values = append(c.values, value{keyCurrentTerm, binary.BigEndian.AppendUint64(nil, bootstrapTerm)})
	}
	if last == 0 && has[valueSnapshot] == nil {
		c.entries = append(c.entries, toEntries(bootstrapEntry(configuration))...)
	}
	return nil
}
