package storage

import "slices"

const (
	// tentativeBlock bounds one block of an ordered set: to insert moves at
	// most so many elements of one block, and one slice header a block beside
	// it. A million elements are some 4,000 to 16,000 blocks.
	tentativeBlock = 256
	// tentativeSparse is where a block is put together with its neighbour, if
	// the two leave room for inserting: so blocks are seldom less than a third
	// full, and the bound on an element's memory holds after any removals.
	tentativeSparse = tentativeBlock / 4
	tentativeMerged = tentativeBlock * 3 / 4
)

// ordered is a sorted set: a sorted slice in blocks. It is not safe for
// concurrent use.
type ordered[T any] struct {
	compare func(a, b T) int
	blocks  [][]T
}

// locate finds v, or where it belongs.
func (o *ordered[T]) locate(v T) (block, at int, found bool) {
	block, _ = slices.BinarySearchFunc(o.blocks, v, func(b []T, v T) int { return o.compare(b[len(b)-1], v) })
	if block == len(o.blocks) {
		return block, 0, false
	}
	at, found = slices.BinarySearchFunc(o.blocks[block], v, o.compare)
	return block, at, found
}

// insert adds v; false if it is there already.
func (o *ordered[T]) insert(v T) bool {
	block, at, found := o.locate(v)
	if found {
		return false
	}
	if block == len(o.blocks) { // behind all others
		if block == 0 || len(o.blocks[block-1]) == tentativeBlock {
			o.blocks = append(o.blocks, append(make([]T, 0, tentativeBlock), v))
			return true
		}
		block, at = block-1, len(o.blocks[block-1])
	}
	if b := o.blocks[block]; len(b) == tentativeBlock {
		half := tentativeBlock / 2
		next := append(make([]T, 0, tentativeBlock), b[half:]...)
		clear(b[half:])
		o.blocks[block] = b[:half]
		o.blocks = slices.Insert(o.blocks, block+1, next)
		if at > half {
			block, at = block+1, at-half
		}
	}
	o.blocks[block] = slices.Insert(o.blocks[block], at, v)
	return true
}

// remove takes v out; false if it is not there.
func (o *ordered[T]) remove(v T) bool {
	block, at, found := o.locate(v)
	if !found {
		return false
	}
	o.blocks[block] = slices.Delete(o.blocks[block], at, at+1)
	switch n := len(o.blocks[block]); {
	case n == 0:
		o.blocks = slices.Delete(o.blocks, block, block+1)
	case n < tentativeSparse && block+1 < len(o.blocks) && n+len(o.blocks[block+1]) <= tentativeMerged:
		o.merge(block)
	case n < tentativeSparse && block > 0 && n+len(o.blocks[block-1]) <= tentativeMerged:
		o.merge(block - 1)
	}
	return true
}

// merge puts the block behind this one into it.
func (o *ordered[T]) merge(block int) {
	o.blocks[block] = append(o.blocks[block], o.blocks[block+1]...)
	o.blocks = slices.Delete(o.blocks, block+1, block+2)
}

// find gives the element that compares equal to v.
func (o *ordered[T]) find(v T) (found T, ok bool) {
	block, at, ok := o.locate(v)
	if ok {
		found = o.blocks[block][at]
	}
	return found, ok
}

// first is the lowest element.
func (o *ordered[T]) first() (lowest T, ok bool) {
	if len(o.blocks) == 0 {
		return lowest, false
	}
	return o.blocks[0][0], true
}

// all gives the elements in order.
func (o *ordered[T]) all(yield func(T) bool) { o.walk(0, 0, yield) }

// from gives those at or above v in order.
func (o *ordered[T]) from(v T) func(yield func(T) bool) {
	return func(yield func(T) bool) {
		block, at, _ := o.locate(v)
		o.walk(block, at, yield)
	}
}

func (o *ordered[T]) walk(block, at int, yield func(T) bool) {
	for ; block < len(o.blocks); block, at = block+1, 0 {
		for _, v := range o.blocks[block][at:] {
			if !yield(v) {
				return
			}
		}
	}
}
