package secret

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
)

// Part is what one source contributes to the Secret.
type Part struct {
	// Source is its name; empty for the short form.
	Source string
	// Data by key.
	Data map[string][]byte
	// Volatile keys differ in every response. They are written, but are not part of the digest.
	Volatile []string
}

// Content is what leasekeeper writes into a Secret: one part for each source. Keys of others are not part of it.
type Content []Part

// Select makes the part of a source from the fields of its response: the selection of the source applies first, then
// that of the target.
func Select(source, target *v1alpha1.FieldSelection, name string, fields map[string][]byte, volatile []string) Part {
	p := Part{Source: name, Data: map[string][]byte{}}
	for field, value := range fields {
		key, kept := apply(source, field)
		if kept {
			key, kept = apply(target, key)
		}
		if !kept {
			continue
		}
		p.Data[key] = value
		if slices.Contains(volatile, field) {
			p.Volatile = append(p.Volatile, key)
		}
	}
	slices.Sort(p.Volatile)
	return p
}

func apply(f *v1alpha1.FieldSelection, field string) (key string, kept bool) {
	if f == nil {
		return field, true
	}
	if len(f.Include) > 0 && !slices.Contains(f.Include, field) || slices.Contains(f.Exclude, field) {
		return "", false
	}
	return f.Prefix + field, true
}

// Data of all parts.
func (c Content) Data() map[string][]byte {
	all := map[string][]byte{}
	for _, p := range c {
		maps.Copy(all, p.Data)
	}
	return all
}

// Collision returns an error if two sources produce the same key. It names the key and the sources.
func (c Content) Collision() error {
	owner := map[string]string{}
	for _, p := range c {
		for _, key := range slices.Sorted(maps.Keys(p.Data)) {
			if other, taken := owner[key]; taken {
				return fmt.Errorf("sources %q and %q both produce the key %q: "+
					"set a fields.prefix or fields.exclude on one of them", other, p.Source, printable(key))
			}
			owner[key] = p.Source
		}
	}
	return nil
}

// Digest of the content: of the digests of its parts, so that one part can change without the data of the others.
func (c Content) Digest(salt string) string {
	var digests []PartDigest
	for _, p := range c {
		digests = append(digests, PartDigest{p.Source, p.Digest(salt)})
	}
	return Combine(digests)
}

// PartDigest is the digest of the part of a source.
type PartDigest struct{ Source, Digest string }

// Combine makes the digest of a content from the digests of its parts.
func Combine(parts []PartDigest) string {
	parts = slices.Clone(parts)
	slices.SortFunc(parts, func(a, b PartDigest) int { return strings.Compare(a.Source, b.Source) })
	sum := sha256.New()
	for _, p := range parts {
		writePart(sum.Write, []byte(p.Source))
		writePart(sum.Write, []byte(p.Digest))
	}
	return base64.RawStdEncoding.EncodeToString(sum.Sum(nil))
}

// Digest of the part. Without the salt, which only the Secret contains, it says nothing about the values.
func (p Part) Digest(salt string) string {
	mac := hmac.New(sha256.New, []byte(salt))
	for _, key := range slices.Sorted(maps.Keys(p.Data)) {
		if !slices.Contains(p.Volatile, key) {
			writePart(mac.Write, []byte(key))
			writePart(mac.Write, p.Data[key])
		}
	}
	return base64.RawStdEncoding.EncodeToString(mac.Sum(nil))
}

// userFields are the fields of a response that name the user that the backend drops when it revokes the lease.
var userFields = []string{"username", "access_key"}

// UserDigest is the digest of the user that a response names; empty: it names none. The scope is where the name is
// unique, so the same user has the same digest in all leases of all objects. It depends on nothing that can be lost
// between two leases: not on the Secret, whose salt others can remove, and not on the seal key, which may be deleted or
// refused. If the digests of a user differed, the old lease would be revoked and the user in use dropped. Whoever can
// read the status can check a guess of the user's name, which is no secret.
func UserDigest(fields map[string][]byte, scope string) string {
	mac, named := hmac.New(sha256.New, []byte(scope)), false
	for _, field := range userFields {
		if value := fields[field]; len(value) > 0 {
			named = true
			writePart(mac.Write, []byte(field))
			writePart(mac.Write, value)
		}
	}
	if !named {
		return ""
	}
	return base64.RawStdEncoding.EncodeToString(mac.Sum(nil)[:16])
}

// writePart writes the length before the bytes, so that no two lists of parts look alike.
func writePart(write func([]byte) (int, error), b []byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(b)))
	_, _ = write(n[:])
	_, _ = write(b)
}
