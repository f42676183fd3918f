//! `KubeControllersConfiguration`.

use super::super::shape::{Field, Shape, field};
use super::super::text;
use super::MANY;

const D: Shape = Shape::Checked(text::duration);
const ON_OFF: Shape = Shape::OneOf(&["Enabled", "Disabled"]);
const PORT: Shape = Shape::Integer(0, 65535);

/// A controller with nothing but its period.
const PERIODIC: Shape = Shape::Table(&[field("reconcilerPeriod", D)]);

pub(super) const SPEC: &[Field] = &[
    field("logSeverityScreen", Shape::AnyCase(&["None", "Debug", "Info", "Warning", "Error", "Fatal"])),
    field("healthChecks", ON_OFF),
    field("prometheusMetricsPort", PORT),
    field("etcdV3CompactionPeriod", D),
    field("debugProfilePort", PORT),
    field(
        "controllers",
        Shape::Table(&[
            field("node", Shape::Table(NODE)),
            field("policy", PERIODIC),
            field("workloadEndpoint", PERIODIC),
            field("serviceAccount", PERIODIC),
            field("namespace", PERIODIC),
            field(
                "loadBalancer",
                Shape::Table(&[
                    field("reconcilerPeriod", D),
                    field("assignIPs", Shape::OneOf(&["AllServices", "RequestedServicesOnly"])),
                ]),
            ),
            field("policyNameMigrator", Shape::Free),
            field("migration", Shape::Free),
        ]),
    ),
];

const NODE: &[Field] = &[
    field("reconcilerPeriod", D),
    field("syncLabels", ON_OFF),
    field("leakGracePeriod", D),
    field(
        "hostEndpoint",
        Shape::Table(&[
            field("autoCreate", ON_OFF),
            field("createDefaultHostEndpoint", ON_OFF),
            field("templates", Shape::List(MANY, &Shape::Table(TEMPLATE))),
        ]),
    ),
];

const TEMPLATE: &[Field] = &[
    field("generateName", Shape::Checked(text::name)),
    field("interfaceCIDRs", Shape::List(MANY, &Shape::Checked(text::prefix))),
    field("interfacePattern", Shape::Checked(text::regex)),
    field("labels", Shape::Map(text::label_key, &Shape::Checked(text::label_value))),
    field("annotations", Shape::Map(text::annotation_key, &Shape::Text)),
    field("nodeSelector", Shape::Checked(text::selector)),
];
