package storage

import (
	"encoding/binary"
	"hash/crc32"
)

// SealBytes is the length of the checksum that [Seal] appends.
const SealBytes = 4

// Seal appends to record, which is kept under key, a CRC-32C of both. With the key in
// it, a record that turns up in another's place shows.
func Seal(key, record []byte) []byte {
	return binary.LittleEndian.AppendUint32(record, sealOf(key, record))
}

// Unseal is the record that was sealed, which shares its bytes; [ErrCorrupt] if that is
// not what is kept under key.
func Unseal(key, sealed []byte) ([]byte, error) {
	if len(sealed) < SealBytes {
		return nil, corrupt("record of %d bytes has no checksum", len(sealed))
	}
	n := len(sealed) - SealBytes
	if sealOf(key, sealed[:n]) != binary.LittleEndian.Uint32(sealed[n:]) {
		return nil, corrupt("record of %d bytes has a wrong checksum", n)
	}
	return sealed[:n:n], nil
}

func sealOf(key, record []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, record)
}
