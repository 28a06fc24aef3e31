package vault

import (
	"bytes"
	"encoding/json"

	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// maxDataBytes is what a Secret can hold. Which keys and values are fit for one is looked at elsewhere.
const maxDataBytes = 1 << 20

// secretData makes the answer's data into that of a Secret.
func secretData(a answer, req backend.Request) (map[string][]byte, error) {
	fields := object(a.Data)
	if v, ok := kv2(a); ok {
		if isNull(v.data) {
			return nil, v.gone(req.Path)
		}
		fields = object(v.data)
	}
	if len(fields) == 0 {
		why := "has no data: does the path give out anything, and is the method right?"
		if a.Auth != nil {
			why = "is a login, not a credential: a token is not given out"
		}
		return nil, backend.Errorf(backend.InvalidResponse, "the answer for %q %s", req.Path, why)
	}
	data, total := make(map[string][]byte, len(fields)), 0
	for key, raw := range fields {
		data[key] = value(raw)
		total += len(key) + len(data[key])
	}
	if total > maxDataBytes {
		return nil, backend.Errorf(backend.InvalidResponse, "the answer for %q has more than 1 MiB of data, which no Secret holds", req.Path)
	}
	return data, nil
}

// value is the bytes of a value: a string as it is, everything else as its JSON text without blanks, numbers with the
// digits that Vault sent. null becomes the text `null` by the same rule: it tells a reader more than an empty value,
// which looks like an empty password.
func value(raw json.RawMessage) []byte {
	var text string
	if bytes.HasPrefix(bytes.TrimSpace(raw), []byte(`"`)) && json.Unmarshal(raw, &text) == nil {
		return []byte(text)
	}
	var compact bytes.Buffer
	if json.Compact(&compact, raw) != nil {
		return []byte(raw)
	}
	return compact.Bytes()
}

// version is an answer of a KV engine of version 2.
type version struct {
	data     json.RawMessage
	metadata struct {
		Version      json.Number `json:"version"`
		CreatedTime  string      `json:"created_time"`
		DeletionTime string      `json:"deletion_time"`
		Destroyed    bool        `json:"destroyed"`
	}
}

// kv2 tells an answer of KV version 2, whose data is in data.data, from a version 1 secret that happens to have the
// keys data and metadata: by the metadata that version 2 always sends. A version 1 secret with just these two keys and
// that very metadata cannot be told.
func kv2(a answer) (v version, ok bool) {
	fields := object(a.Data)
	if a.LeaseID != "" || len(fields) != 2 || fields["data"] == nil || fields["metadata"] == nil {
		return v, false
	}
	if !isNull(fields["data"]) && object(fields["data"]) == nil {
		return v, false
	}
	if json.Unmarshal(fields["metadata"], &v.metadata) != nil || v.metadata.Version == "" || v.metadata.CreatedTime == "" {
		return v, false
	}
	// json.Number also takes a string that holds a number.
	if number, isNumber := plain(object(fields["metadata"])["version"]); !isNumber || number == "" || object(fields["metadata"])["version"][0] == '"' {
		return v, false
	}
	v.data = fields["data"]
	return v, true
}

// maxNumberRunes is more than a number of Vault's has: JSON's may have any length, and a condition takes 32 KiB.
const maxNumberRunes = 32

func (v version) gone(path string) *backend.Error {
	what := "deleted"
	if v.metadata.Destroyed {
		what = "destroyed"
	}
	return backend.Errorf(backend.NotFound, "version %s of %q is %s: write a new version or undelete it", cut(string(v.metadata.Version), maxNumberRunes), path, what)
}
