// Renders a Helm chart's templates as Helm does (Go's text/template with sprig and Helm's own functions), for tests where
// no helm binary can be had. Usage: main CHART RELEASE NAMESPACE VALUES.json; prints the documents, templates in order.
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig"
	"gopkg.in/yaml.v3"
)

func main() {
	chart, release, namespace, valuesFile := os.Args[1], os.Args[2], os.Args[3], os.Args[4]
	var meta, values map[string]interface{}
	read(filepath.Join(chart, "Chart.yaml"), func(raw []byte) error { return yaml.Unmarshal(raw, &meta) })
	read(valuesFile, func(raw []byte) error { return json.Unmarshal(raw, &values) })
	root := template.New("chart").Option("missingkey=error")
	functions := sprig.TxtFuncMap()
	functions["toYaml"] = func(value interface{}) (string, error) {
		var out bytes.Buffer
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		err := encoder.Encode(value)
		return strings.TrimSuffix(out.String(), "\n"), err
	}
	functions["include"] = func(name string, data interface{}) (string, error) {
		var out bytes.Buffer
		err := root.ExecuteTemplate(&out, name, data)
		return out.String(), err
	}
	root.Funcs(functions)
	files, _ := filepath.Glob(filepath.Join(chart, "templates", "*"))
	for _, file := range files {
		read(file, func(raw []byte) error { _, err := root.New(filepath.Base(file)).Parse(string(raw)); return err })
	}
	data := map[string]interface{}{
		"Values": values,
		"Chart": map[string]interface{}{
			"Name": meta["name"], "Version": meta["version"], "AppVersion": meta["appVersion"],
		},
		"Release": map[string]interface{}{"Name": release, "Namespace": namespace, "Service": "Helm"},
	}
	for _, file := range files {
		name := filepath.Base(file)
		if strings.HasPrefix(name, "_") {
			continue
		}
		var out bytes.Buffer
		check(name, root.ExecuteTemplate(&out, name, data))
		fmt.Printf("---\n# Source: %s\n%s\n", name, out.String())
	}
}

func read(file string, parse func([]byte) error) {
	raw, err := os.ReadFile(file)
	check(file, err)
	check(file, parse(raw))
}

func check(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}
