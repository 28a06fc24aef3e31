package vault

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/leasekeeper/leasekeeper/api/v1alpha1"
	"github.com/leasekeeper/leasekeeper/internal/backend"
)

// maxDataBytes is what a Secret can hold. Whether keys and values are valid in a Secret is checked elsewhere.
const maxDataBytes = 1 << 20

// secretFields returns the fields of the response's secret. Null fields are omitted: an engine sends null for what the
// credential does not have, such as session_token of an IAM user.
func secretFields(a response, req *v1alpha1.VaultRequest) (map[string]json.RawMessage, error) {
	fields := object(a.Data)
	if v, ok := kv2(a); ok {
		if isNull(v.data) {
			return nil, v.unreadable(req)
		}
		fields = object(v.data)
		if err := v.addCustomMetadata(fields, req); err != nil {
			return nil, err
		}
	} else if req.CustomMetadata {
		return nil, backend.Errorf(backend.InvalidResponse, "the response for %q is not that of a KV engine of "+
			"version 2, and only that has custom metadata: omit customMetadata", req.Path)
	}
	for key, raw := range fields {
		if isNull(raw) {
			delete(fields, key)
		}
	}
	if len(fields) > 0 {
		return fields, nil
	}
	problem := "has no data: check that the path returns something, and the method"
	if a.Auth != nil {
		problem = "is a login, not a credential: use the path of a secrets engine"
	}
	return nil, backend.Errorf(backend.InvalidResponse, "the response for %q %s", req.Path, problem)
}

// secretData makes the fields into the data of a Secret.
func secretData(fields map[string]json.RawMessage, req *v1alpha1.VaultRequest) (map[string][]byte, error) {
	data, total := make(map[string][]byte, len(fields)), 0
	for key, raw := range fields {
		data[key] = valueBytes(raw)
		total += len(key) + len(data[key])
	}
	if total > maxDataBytes {
		return nil, backend.Errorf(backend.InvalidResponse,
			"the response for %q has more than 1 MiB of data, which a Secret cannot hold", req.Path)
	}
	return data, nil
}

// valueBytes is a value in a Secret: the bytes of a string, and the JSON of everything else, without white space.
// Numbers keep the digits that Vault sent.
func valueBytes(raw json.RawMessage) []byte {
	var text string
	if readString(raw, &text) == nil && bytes.HasPrefix(bytes.TrimSpace(raw), []byte(`"`)) {
		return []byte(text)
	}
	var compact bytes.Buffer
	if json.Compact(&compact, raw) != nil {
		return []byte(raw)
	}
	return unescapeHTML(compact.Bytes())
}

// htmlEscapes undoes what Vault's JSON encoder does to characters that need no escape in JSON.
var htmlEscapes = map[string]string{
	`\u0026`: "&", `\u003c`: "<", `\u003e`: ">", `\u2028`: "\u2028", `\u2029`: "\u2029",
}

// unescapeHTML undoes Vault's escapes in valid JSON, so that a stored URL keeps its "&".
func unescapeHTML(text []byte) []byte {
	if !bytes.Contains(text, []byte(`\u`)) {
		return text
	}
	var out bytes.Buffer
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' {
			out.WriteByte(text[i])
			continue
		}
		escape := text[i:min(i+6, len(text))]
		if plain, ok := htmlEscapes[strings.ToLower(string(escape))]; ok {
			out.WriteString(plain)
			i += len(escape) - 1
			continue
		}
		// The next character belongs to the escape, which may be an escaped backslash.
		out.Write(text[i:min(i+2, len(text))])
		i++
	}
	return out.Bytes()
}

// version is a response of a KV engine of version 2.
type version struct {
	data     json.RawMessage
	metadata struct {
		Version      json.Number `json:"version"`
		CreatedTime  string      `json:"created_time"`
		DeletionTime string      `json:"deletion_time"`
		Destroyed    bool        `json:"destroyed"`
		// Custom metadata are an object of strings; null: there are none.
		Custom json.RawMessage `json:"custom_metadata"`
	}
}

// kv2 recognises a response of KV version 2, whose secret is in data.data. A version 1 secret may have the keys data
// and metadata too, so the metadata must be what version 2 sends. A version 1 secret that contains just that cannot be
// distinguished.
func kv2(a response) (v version, ok bool) {
	fields := object(a.Data)
	if a.LeaseID != "" || len(fields) != 2 || fields["data"] == nil || fields["metadata"] == nil {
		return v, false
	}
	if !isNull(fields["data"]) && object(fields["data"]) == nil {
		return v, false
	}
	err := json.Unmarshal(fields["metadata"], &v.metadata)
	if err != nil || v.metadata.Version == "" || v.metadata.CreatedTime == "" {
		return v, false
	}
	// json.Number also accepts a string that contains a number.
	raw := object(fields["metadata"])["version"]
	if number, isNumber := plain(raw); !isNumber || number == "" || bytes.TrimSpace(raw)[0] == '"' {
		return v, false
	}
	v.data = fields["data"]
	return v, true
}

// maxNumberRunes is more than Vault's numbers have. A number in JSON may have any length, and a condition has 32 KiB.
const maxNumberRunes = 32

// unreadable is the error for a version that was deleted or destroyed. A destroyed version cannot be restored.
func (v version) unreadable(req *v1alpha1.VaultRequest) *backend.Error {
	state, remedy := "deleted", "undelete it, or write a new version"
	if v.metadata.Destroyed {
		state, remedy = "destroyed", "write a new version"
	}
	if pinned(req) {
		remedy = strings.Replace(remedy, "write a new version", "change the parameter version", 1)
	}
	return backend.Errorf(backend.NotFound, "version %s of %q is %s: %s",
		cut(string(v.metadata.Version), maxNumberRunes), req.Path, state, remedy)
}

// pinned says that the request names a version of a KV secret.
func pinned(req *v1alpha1.VaultRequest) bool {
	_, set := req.Parameters["version"]
	return set && req.Method != v1alpha1.MethodWrite
}

// fieldCustomMetadata is the field that customMetadata adds.
const fieldCustomMetadata = "custom_metadata"

func (v version) addCustomMetadata(fields map[string]json.RawMessage, req *v1alpha1.VaultRequest) error {
	if !req.CustomMetadata || isNull(v.metadata.Custom) {
		return nil
	}
	if _, taken := fields[fieldCustomMetadata]; taken {
		return backend.Errorf(backend.InvalidResponse,
			"the secret at %q has a field %s of its own: omit customMetadata", req.Path, fieldCustomMetadata)
	}
	fields[fieldCustomMetadata] = v.metadata.Custom
	return nil
}

func readString(raw json.RawMessage, into *string) error {
	if isNull(raw) {
		return fmt.Errorf("missing")
	}
	return json.Unmarshal(raw, into)
}
