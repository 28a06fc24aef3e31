// Command image packs a static binary, CA certificates and a non-root user into an OCI image. It needs neither a
// container engine nor a registry.
package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// user is the nonroot user of distroless. Kubernetes' runAsNonRoot needs a numeric user.
const user = 65532

// epoch is the modification time of every file, so that the same binary yields the same digest.
var epoch = time.Unix(0, 0).UTC()

func main() {
	binary := flag.String("binary", "", "path of the static binary")
	output := flag.String("output", "", "path of the OCI archive to write")
	name := flag.String("name", "localhost/leasekeeper:dev", "image name in the archive")
	arch := flag.String("arch", runtime.GOARCH, "architecture of the binary")
	cas := flag.String("ca-certificates", "/etc/ssl/certs/ca-certificates.crt",
		"CA certificates to include, if the file exists")
	flag.Parse()
	if err := run(*binary, *output, *name, *arch, *cas); err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

func run(binary, output, name, arch, cas string) error {
	image, err := build(binary, arch, cas)
	if err != nil {
		return err
	}
	if err := write(image, name, output); err != nil {
		return err
	}
	digest, err := image.Digest()
	if err != nil {
		return err
	}
	info, err := os.Stat(output)
	if err != nil {
		return err
	}
	fmt.Printf("%s: %s, %s, %.1f MiB, user %d\n", output, name, digest, float64(info.Size())/(1<<20), user)
	return nil
}

func build(binary, arch, cas string) (v1.Image, error) {
	files, err := pack(binary, cas)
	if err != nil {
		return nil, err
	}
	open := func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(files)), nil }
	layer, err := tarball.LayerFromOpener(open, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	base := mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON)
	image, err := mutate.AppendLayers(base, layer)
	if err != nil {
		return nil, err
	}
	config, err := image.ConfigFile()
	if err != nil {
		return nil, err
	}
	return mutate.ConfigFile(image, runnable(config, arch))
}

// runnable adds the platform and entry point to the config of the layers.
func runnable(layers *v1.ConfigFile, arch string) *v1.ConfigFile {
	config := layers.DeepCopy()
	config.OS, config.Architecture, config.Created = "linux", arch, v1.Time{Time: epoch}
	config.Config = v1.Config{
		User:       fmt.Sprintf("%d:%d", user, user),
		Entrypoint: []string{"/manager"},
		WorkingDir: "/",
		Labels: map[string]string{
			"org.opencontainers.image.title":    "leasekeeper",
			"org.opencontainers.image.licenses": "Apache-2.0",
			"org.opencontainers.image.source":   "https://github.com/leasekeeper/leasekeeper",
		},
	}
	return config
}

// file is one entry of a tarball.
type file struct {
	name string
	mode int64
	text []byte
}

// pack creates the only layer.
func pack(binary, cas string) ([]byte, error) {
	program, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	files := []file{
		{"etc/passwd", 0o644, fmt.Appendf(nil, "nonroot:x:%d:%d:nonroot:/:/sbin/nologin\n", user, user)},
		{"manager", 0o755, program},
	}
	certificates, err := os.ReadFile(cas)
	switch {
	case err == nil:
		files = append(files, file{"etc/ssl/certs/ca-certificates.crt", 0o644, certificates})
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	var out bytes.Buffer
	err = writeTar(&out, files)
	return out.Bytes(), err
}

func writeTar(out io.Writer, files []file) error {
	w := tar.NewWriter(out)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.text)), ModTime: epoch,
			Format: tar.FormatPAX}
		if err := w.WriteHeader(header); err != nil {
			return err
		}
		if _, err := w.Write(f.text); err != nil {
			return err
		}
	}
	return w.Close()
}

// write creates an OCI archive for `ctr image import`, `podman load` and `skopeo copy oci-archive:`.
func write(image v1.Image, name, output string) error {
	dir, err := os.MkdirTemp("", "leasekeeper-image-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path, err := layout.Write(dir, empty.Index)
	if err != nil {
		return err
	}
	annotations := map[string]string{"org.opencontainers.image.ref.name": name}
	if err := path.AppendImage(image, layout.WithAnnotations(annotations)); err != nil {
		return err
	}
	// Validate the layout as written.
	written, err := path.ImageIndex()
	if err != nil {
		return err
	}
	if err := validate.Index(written); err != nil {
		return err
	}
	partial := output + ".partial"
	if err := archive(dir, partial); err != nil {
		return err
	}
	return os.Rename(partial, output)
}

// archive reads the whole image into memory, a few dozen MiB.
func archive(dir, output string) error {
	var files []file
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		files = append(files, file{name, 0o644, text})
		return err
	})
	if err != nil {
		return err
	}
	out, err := os.Create(output)
	if err != nil {
		return err
	}
	return errors.Join(writeTar(out, files), out.Close())
}
